"""Tables of distributions: how many numbers lie in each bin, the quantiles that follow, and kurtosis.

In: what a site's accumulator of its distribution held (`kernels.distributions`), or the frames of a file. Out:
the frame of counts, merged by adding (`counts`), quantiles and histograms (`quantiles`), third and fourth moments
and the kurtosis that they give (`powers`), and what of them a recording shows (`views`).
"""
