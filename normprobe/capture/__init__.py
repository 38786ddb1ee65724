"""What happens while a probed model runs: from the call of the model to a record of every layer and site.

In come a model with the layers found in it (`layers`), the user's options and, call by call, tensors. Out
go `tables.records.LayerRecord`s, one a layer, from which `tables` builds frames. Everything a tensor is
measured by is decided here: which forward, which samples, which are kept; the numbers are added in
`kernels`. What begins a call's way stands beside the folders (`hook_callbacks`, `layer_calls`, `measure`);
`forwards`, `calls`, `identity`, `states`, `functions` and `hooks` hold the steps, `live_pairs` what
`compare_live` needs in their place; `experts` measures those that one weight holds, where they are asked
for, and says which tokens those of a list are given; `batches` runs the model for those who do not run it
themselves.

The life of a tensor, from the call of the model on:

1. A hook fires. Where the compiled kernel is there it is an object of the extension (`fast_hooks`), which
   handles the call itself if a plan of it is cached (step 9), and else calls on (`hook_callbacks`).
   `hooks/handles` puts hooks in place and, while they have nothing to do, aside.
2. The outermost call begins a forward (`hook_callbacks._begin`): `hooks/torch_internals` says whether it is
   a run, `forwards/forward` numbers it and reads batch, time and masks (`samples.batch`, `samples.masks`),
   `forwards/run_info` counts and fingerprints the data, `forwards/weight_changes` looks whether the
   parameters are as they were, `functions/function_mode` listens for layers that no hook sees
   (`functions/function_session`).
3. At a layer (`layer_calls`) the input is measured before the call and the output after it, as the hooks of
   others leave both. Which tensors of a call these are is known for calls of its form (`calls/readings`,
   `calls/call_tensors`), or its result shows it. Until a call has told how a norm computes
   (`LayerState.settled`), clones of what it is given wait for the output, and `layers.norms.identify`
   corrects the view. Tensors of registered sites (`states/site_registry`) are measured
   after the output.
4. Which sequence of the forward the layer works on, with which mask: `identity/sequences`. Where several
   arguments have masks, what layers made of them is traced (`forwards/traced_tensors`); convolutions and
   pools carry masks to where there are fewer positions (`hook_callbacks._carry_masks`).
5. `measure` observes one tensor at one site; `layers.to_rows` gives its extent, from sizes alone. A call on
   what is no data of the forward is left out (`identity/no_data`).
6. Its samples are numbered and masked (`identity/sample_numbers.place`, by `samples.layout`), then chosen
   (`identity/selection.select`, by `samples.reservoir`), as are the raw rows to keep
   (`identity/selection.select_rows`).
   Where samples are of groups (`forwards/group_options`, `identity/group_choices`) each group is a choice of
   its own, added to sums of its own (`group_measurer`); the site's are merged from them when frozen.
7. A kernel adds it to the sums of the site (`states/site_state`): in one pass over memory, or arranged as
   (samples, rows, features). New extremes are noted with their holder
   (`identity/sample_numbers.record_extremes`).
8. It is counted (`measure._count`, `states/counters`), and the vectors the layer applies are copied if they
   changed (`LayerState.snapshot_vectors`).
9. What was decided becomes a plan (`identity/plan_cache`), which the extension's hooks find at the next
   such tensor.
10. `Probe.recording` freezes every layer (`LayerState.record`); `coverage` says why a layer did not fire.

`live_pairs/side_by_side` and `live_pairs/power_sums` do less for `compare_live`: they keep one batch's
tensors and sum differences.

Caches: owner; key; end; why it may be trusted.

- `SiteState.layout`, `.time_axis`: the site; none; the probe's end. How leading sizes read. Held against
  the sizes of every tensor (`samples.layout.fits`); one that does not fit is numbered within the layer.
- `Forward.sequences`: the forward; sequence, mask pattern and number of positions; its end, or
  `read_time_first`. Batch and masks change only there.
- `Forward.by_size`: the forward; mask and number of positions; its end. Two ways to one number that differ
  are no mask.
- `Forward.traced`: the forward; address and size of an output; its end. Trusted while the output's storage
  lives, by a weak reference.
- `LayerState.sequence`: the layer; none; the probe's end. Which sequence it was seen to read where sizes do
  not tell; what it is given now goes first.
- `MaskReader`: the probe; name of an argument; its end. Which value is padding stays as one forward's
  values showed it.
- `SequenceFinder`: the probe; a model's id, and numbers of positions that every example had alike.
- `Forward.placements`: the forward; sequence, `Sizes`, first number; its end. The samples follow from
  these alone.
- `Forward.selections`, `.rows`: the forward; placement, reservoir, repeat, and selection, reservoir; its
  end. By identity: placements and reservoirs never change, and the keys keep them alive.
- `PlanSlot`, `CachedPlan` (extension; made by `PlanCache.make`): a slot is shared by sites whose tensors
  read alike and hangs on their counters; its plan counts only in the forward whose serial number it holds,
  for a tensor of its sizes and dtype, at a site whose reservoirs are those it was made for, on the first
  call in the forward.
- `PlanCache`: the probe; `ForwardKey` (module, batch, time, mask); the first forward of another key, or
  any plan made anew. Forwards of one key without padding or labels differ in their samples' numbers alone,
  so plans for up to 16 coming forwards are made at once, and used only if call and example number come as
  foreseen.
- `RecentMoments` (extension; `Forward.recent` where the kernel is torch): the forward; a tensor, its
  version, choice and axes; its end. Layers that read one tensor measure it once. A write raises the
  version, and the entry is of the very tensor, not of its id.
- `Readings.known`: the layer; form of a call; the probe's end. Which tensors it reads and writes; where the
  result holds none at a path, the first that is new.
- `LayerState._stamps`, `LayerHook`'s stamps (extension): the layer; id, address and version of each tensor
  of its own; the probe's end. Equal stamps: the copied vectors are those applied.
- `WeightChanges._versions`: the probe; none; the next measured forward. The sum of the versions of the
  parameters that it found first; a step of a fused optimizer, which raises none, is noted apart.
- `FastHooks.made`: the probe; kind of hook and index of the layer or id of the module; its end. The hooks
  hold stamps, so entering the probe again makes none anew; the probe's model keeps the ids.
- `Probe._known`: the probe; what `layers.same_model` reads of the model; a model that is not as it was. The
  layers found. Never used where a user's predicate selects them.
- `ListeningSchedule`: `FunctionCapture`; kind of forward; the probe's end. Only says where to listen: what
  it does not know yet is found at the 4th, 16th, ... forward, and the ledger says what may be missing
  before.
- `FunctionSession.owners`: the forward; id of a weight or cast; its end. Trusted while its weak reference
  is it.
- Hooks aside (`hooks/handles`): the probe's `Hooks`; the dictionary and number of each; the end of the
  model's call, the next forward, or removal. Only inside a call of the model by the one thread that there
  has been.
- `CompiledCode` (`hooks/compiled`): the block; the id of compiled code, which it holds; a probe that leaves.
  Code that was seen ahead of a call of the model is never its own.
- `_HOOKS` (`hooks/graph_calls`): the process; the number of a hook, never given again; its probe, weakly.
- `dispatch.compiled`, `samples.layout._unmasked`: the process. Pure.

Locks:

- `HookCallbacks.lock`, reentrant: layer and site states, counters, plans, `forwards/run_info`, schedules,
  and `Probe.recording`. The extension's hooks take it for a whole call; who waits for it lets the
  interpreter go on.
- `Forwards.lock`: the counts of forwards, so that one can begin while another thread measures.
- A `Forward`, its `FunctionSession` and the stack of modes are of one thread and need none;
  `current_forward` finds the thread's own. No lock is held while a user's function for masks, labels or
  sites runs.
"""
