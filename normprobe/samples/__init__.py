"""Which row of a tensor is which sample of the data, which are padding, and which are kept.

In come the arguments of a forward and the sizes of tensors; nothing here reads a tensor of a layer.
`batch` names the arguments and finds batch and time, `masks` the padding among them (in any form:
`mask_forms`; by names that are not known: `mask_arguments`; behind strides: `strides`), `layout` numbers the
samples of a tensor as (example, position), `hashing` and `reservoir` choose which are kept, `fingerprint`
and `pad_tokens` say whether two recordings saw the same data and how much padding no mask told of. Out go
numpy arrays: numbers of examples and positions, masks, hashes, slots.

All of it is plain data: what is made here never changes, but for `strides.MaskBySize` (of one forward) and
`mask_arguments.MaskReader` (of one probe), which note what they find. `Layout` is decided by whoever keeps it
(`capture.states.site_state`). Two caches are of the whole process, `layout._unmasked` and
`fingerprint._constants`: pure functions of sizes, bounded, read-only. `batch.Signatures` is of one probe.
"""
