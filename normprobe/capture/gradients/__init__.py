"""Gradients beside activations: at the sites `input_gradient` and `output_gradient`, and of parameters.

In comes each tensor that was measured at a layer's input or output, with the numbers of its samples
(`identity.numbered`). `gradient_capture` puts a hook on it (`tensor_hook`), which autograd calls with the
whole gradient of that tensor. Out goes that gradient, to be measured with the same samples, mask and kept
rows; the model's own stays as it is. What of a forward outlasts it for that is a `forward_trace`: numbers and
no tensor, held by the hooks and so gone with the graph. `recomputation` finds, in a part that reentrant
checkpointing runs again, the call that was measured when it ran first. `loss_scale` asks the user's scaler.

No hook of modules' backward is used: those put nodes into the graph.
"""
