"""The columns of the public tables of blocks and attention: their order, dtype and meaning."""

from __future__ import annotations

_TEXT, _WHOLE, _REAL = "string", "int64", "float64"

BRANCHES: dict[str, tuple[str, str]] = {
    "layer": (_TEXT, "qualified name of the block"),
    "depth": (_WHOLE, "order of first execution, from 0"),
    "calls": (_WHOLE, "measured firings"),
    "n_samples": (_WHOLE, "samples"),
    "stream_variance": (_REAL, "population variance of all finite values of what the block reads"),
    "branch_variance": (_REAL, "that of what it adds: output - input"),
    "output_variance": (_REAL, "that of what it writes"),
    "variance_ratio": (_REAL, "branch_variance ÷ stream_variance; missing where that is 0"),
    "correlation": (_REAL, "of what it adds with what it reads, over all values: from the three variances"),
}

ATTENTION: dict[str, tuple[str, str]] = {
    "layer": (_TEXT, "qualified name of the attention"),
    "head": (_WHOLE, "index of the head, from 0"),
    "calls": (_WHOLE, "calls that showed their weights"),
    "rows": (_WHOLE, "queries, padding left out"),
    "max_logit": (_REAL, "largest logit, as the softmax reads it: scale, bias and mask included"),
    "mean_max_logit": (_REAL, "mean over queries of the largest logit"),
    "entropy": (_REAL, "mean over queries of the entropy of the weights, in nats"),
    "entropy_variance": (_REAL, "population variance over queries of that entropy"),
    "entropy_min": (_REAL, "the smallest"),
    "entropy_max": (_REAL, "the largest"),
    "nonfinite": (_WHOLE, "queries whose entropy is NaN; they enter no other column of entropies"),
}
