"""Everything that rests on how torch calls modules and functions, and on names that torch calls private.

In comes a model and what to call: `handles` for its modules, `weight_functions` for functions that use
the weight of a layer. Out go those calls, and answers to what only torch knows: whether a forward is a
run, whose call this is, whether it is backward, what is compiled. `copies` keeps hooks out of copies of the
model. `interrupts` says how a Ctrl-C in the middle of any of it leaves nothing behind. Nothing here measures.

Private names, each read in torch 2.13, and what they are for. Where there is a public way, it is taken.

- `torch._C._is_tracing`, `_get_dispatch_mode`, `_TorchDispatchModeKey`, `_functorch` (torch_internals): a
  forward that is traced, exported, transformed or faked has no numbers.
- `torch._C._current_graph_task_id` (torch_internals, kernels/cpu): a forward in backward is a
  recomputation.
- `Tensor._base` (torch_internals): which weight a view of it, such as a part of a fused one, belongs to.
- `Module._modules`, `_parameters`, `_buffers` (everywhere, also in C): the parts and tensors of a module
  without its `__getattr__`. `Tensor._version` (everywhere, also in C): whether a tensor was written to.
- `Module._compiled_call_impl`, `OptimizedModule._orig_mod` (compiled, run_info, layers): what is
  compiled.
- `_torchdynamo_disable` on a function (compiled_frames): where a graph is cut for a hook, compilation does
  not look into it.
- `Module._forward_hooks` and the dictionaries beside it (handles, copies): a hook whose handle an interrupt
  lost, and which entries copies and pickles of the model leave out.
  `torch._C._set_grad_enabled` (function_mode): how torch switches gradients, which a mode hears, too.
- `nn.modules.batchnorm._BatchNorm`, `instancenorm._InstanceNorm` and its `_get_no_batch_dim` (layers,
  batchnorm): the base classes of norms.

The rest is optional: it makes calls cheaper, or shows what no hook sees.

- `torch._C._len_torch_function_stack`, `_get_function_stack_at`, `_pop_torch_function_stack`,
  `_push_on_torch_function_stack` and `torch._GLOBAL_DEVICE_CONTEXT` (torch_internals): the mode that sees
  functions stands below those of others, and all modes are aside while a probe computes.
- `torch.overrides._pop_mode_temporarily` (torch_internals): a mode that torch holds aside while it is
  interrupted, and would put back later.
- `FSDPModule._get_fsdp_state` and `mesh_info` of its groups (fully_sharded): over which processes it spreads
  a parameter, and so which of them have the same data.
- `RemovableHandle.next_id` (handles): whether hooks were registered since. Python frames of
  `torch.distributed.pipelining` and of trainers (torch_internals): a forward that they make on no data.
- Python frames of `Module._call_impl` (torch_internals): whether a KeyboardInterrupt ended a forward, and
  which module calls a function. Frames of `functional.l1_loss` and two others (weight_functions):
  arguments that torch drops on the way to a mode.
- `functional._in_projection_packed`, `_in_projection` (weight_functions): the Linears inside attention.
- `Module._forward_pre_hooks`, `_forward_hooks` (handles): own hooks are aside during a call of the model
  where they have nothing to do.
- `__script_if_tracing_wrapper` and `__original_fn` on a class of hooks (handles): dynamo looks at what the
  second names, which puts an operator into the graph, instead of at the hook. `get_fake_value` by its frame
  (graph_calls): whether dynamo itself asks for what that operator gives.
- `torch._C._dynamo.eval_frame`: `set_eval_frame` takes dynamo's callback away while a hook runs between
  compiled code, `set_code_exec_strategy` keeps our own functions uncompiled,
  `set_fullgraph_compiled_frame_count` lets a call run as written under fullgraph=True (compiled_frames);
  `_debug_get_cache_entry_list` and `guard_manager.check` of an entry say whether code that holds no hooks
  would run, `_torchdynamo_orig_callable` and `_torchdynamo_inline` what a compiled call wraps (compiled).
- `torch._guards.TracingContext`, `torch._dynamo.config.recompile_limit` (graph_calls): a graph with hooks
  does not count towards the limit of graphs of one function.
- `Tensor.__dlpack_c_exchange_api__` (kernels/cpu): sizes and address of a tensor at once.

``NORMPROBE_PRIVATE_TORCH=0`` in the environment, read when a probe is first imported, switches all
optional ones off. What hooks see is measured alike, a few percent slower for a decoded token. Not seen
are then layers whose module is never called, only their weight used, and layers of models compiled before
the probe was entered: the ledger says so of each.
"""
