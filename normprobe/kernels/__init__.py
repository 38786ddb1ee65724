"""Numbers: one pass over a tensor to the moments of its features and samples.

In: a tensor, how its axes read (`types.AxisRoles`), which of its rows count (`choice.Choice`). Out: moments
and kept rows, added to those a site already has (`types.Accumulator`). `dispatch` picks the kernel: the C
extension (`cpu`, its sources in `csrc/numerics`; `csrc/hooks` are the hooks of `capture`); without it torch
and numpy (`numpy_accumulator`, over `chunked`, `few_rows` and `reference`); for accelerators torch
(`accumulator`, over `reference`). Each merges by the one formula in `moments`.
"""
