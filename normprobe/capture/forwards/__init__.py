"""The forwards of a probe: what begins one, which thread is in which, and what is known of it.

In come the user's options (`probe_options`, `mask_options`, `label_options`) and the outermost call of the
model, or of a module of it that holds layers. Out goes a `Forward`: its number, batch, time and masks, with
what is cached until it ends (`forward`). `current_forward` holds it for each thread, and has a twin in the
extension; `traced_tensors` says which sequence the outputs of layers are of; `run_info` fingerprints the
data and says what ran, `weight_changes` whether the parameters stayed as they were.
"""
