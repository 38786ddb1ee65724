"""The columns of the public tables of blocks and attention: their order, dtype and meaning."""

from __future__ import annotations

from normprobe.tables.columns.dtypes import REAL, TEXT, WHOLE

BRANCHES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the block"),
    "depth": (WHOLE, "order of first execution, from 0"),
    "calls": (WHOLE, "measured firings"),
    "n_samples": (WHOLE, "samples"),
    "stream_variance": (REAL, "population variance of all finite values of what the block reads"),
    "branch_variance": (REAL, "that of what it adds: output - input"),
    "output_variance": (REAL, "that of what it writes"),
    "variance_ratio": (REAL, "branch_variance ÷ stream_variance; missing where that is 0"),
    "correlation": (REAL, "of what it adds with what it reads, over all values: from the three variances"),
}

ATTENTION: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the attention"),
    "head": (WHOLE, "index of the head, from 0"),
    "calls": (WHOLE, "calls that showed their weights"),
    "rows": (WHOLE, "queries, padding left out"),
    "max_logit": (REAL, "largest logit, as the softmax reads it: scale, bias and mask included"),
    "mean_max_logit": (REAL, "mean over queries of the largest logit"),
    "entropy": (REAL, "mean over queries of the entropy of the weights, in nats"),
    "entropy_variance": (REAL, "population variance over queries of that entropy"),
    "entropy_min": (REAL, "the smallest"),
    "entropy_max": (REAL, "the largest"),
    "nonfinite": (WHOLE, "queries whose entropy is NaN; they enter no other column of entropies"),
}
