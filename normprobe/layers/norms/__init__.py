"""What a norm computes, whatever its name says, and swapping norms.

In come a norm, its view on entry and one call of it (input, output). Out goes an `Identification`
(`identify.identify`): the view corrected, and how the stored weight is applied.

- `formulas`: the ways in which norms normalize; `affine`, the scale and shift that they apply (w or 1 + w).
- `call` and `fitting`: one call as arrays, and the formulas held against it.
- `swap` and `replacements`: `swap_norms`, and the norms that it puts in.
"""
