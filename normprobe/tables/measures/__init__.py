"""Quantities that follow from the columns of the public tables, each computed here and nowhere else.

In: `normprobe.tables.frames.Tables`. Out: frames by layer and site that findings hold against thresholds, and
that figures, report and the BatchNorm audit show: of whole sites (`layers`), of their features (`features`),
of their samples (`samples`), and of a BatchNorm's running statistics beside what it saw
(`running_statistics`).
"""
