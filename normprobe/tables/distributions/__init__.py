"""Tables of distributions: how many numbers lie in each bin, the quantiles that follow, and kurtosis.

In: what a site's accumulator of its distribution held (`kernels.distributions`), or the frames of a file.
Out: the frame of counts, merged by adding (`counts`), quantiles and histograms (`quantiles`), and third and
fourth moments with the kurtosis that they give (`powers`).
"""
