"""Shapes of distributions: fourth powers and counts in bins, in a second pass where that is asked for.

In: a tensor as (samples, rows, features) or as it lies, and which of its rows count
(`kernels.choice.Choice`). Out: central sums up to the fourth power of its features and kept samples
(`central_moments`), and how many of its numbers lie in each of 4,081 bins (`bins`), added to those that
a site has. `accumulators` picks the kernel: the extension (``csrc/distributions``), else torch
(`torch_distribution`).
"""
