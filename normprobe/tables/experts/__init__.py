"""Tables of experts: their moments as saved and merged, and the public tables made of them.

`frames` holds those that one weight holds; `listed` reads those that are modules of a list from the moments
of their layers; `tables` derives what `Recording.experts` shows.
"""
