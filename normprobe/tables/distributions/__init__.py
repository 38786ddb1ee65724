"""Tables of distributions: counts in bins and powers of deviations, merged exactly, and their quantiles."""
