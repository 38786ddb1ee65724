"""Tables of distributions: counts in bins and powers of deviations, merged exactly, and their quantiles.

In come what accumulators counted, as records or from a file; out go frames to save, merge and show.
"""
