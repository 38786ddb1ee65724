#!/usr/bin/env bash
# crick.SummaryStats (streaming mean, variance, skewness, kurtosis) documents a count
# for each added element. A count of k does not stand for k equal elements: the mean and
# the standard deviation come out divided by k. Besides, a summary fed with add() has
# no skewness or kurtosis at all (NaN), the same values through update() do; TDigest
# in the same package treats the count rightly.
# Why it matters: weighted or pre-aggregated activations (value, how often) are the
# usual input of streaming moments, and the result looks plausible.
# crick 0.0.8, seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile crick==0.0.8 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import numpy as np, crick
from importlib.metadata import version
print("crick", version("crick"), "numpy", np.__version__)
x = np.random.default_rng(0).standard_normal(1000) + 10
print("expected: count=k gives the mean and variance of the k-fold repeated data")
for k in (1, 2, 5):
    r = np.repeat(x, k)
    u, a, full = crick.SummaryStats(), crick.SummaryStats(), crick.SummaryStats()
    u.update(x, k)
    for v in x: a.add(float(v), k)
    full.update(r)
    print(f"k={k}: truth mean {r.mean():.4f} var {r.var():.4f} | repeated {full.mean():.4f} {full.var():.4f} | "
          f"update(x, k) {u.mean():.4f} {u.var():.4f} | add(v, k) {a.mean():.4f} {a.var():.4f} skew {a.skew()} count {a.count()}")
    assert np.isclose(full.mean(), r.mean()) and np.isclose(full.var(), r.var())
    for s in (u, a):
        assert s.count() == 1000 * k
        assert np.isclose(s.mean(), x.mean() / k) and np.isclose(s.var(), x.var() / k**2)
    assert np.isnan(a.skew()) and np.isnan(a.kurt()) and np.isfinite(u.skew())
t = crick.TDigest(); t.update(x, 5)
assert abs(t.quantile(0.5) - np.median(x)) < 0.1 and t.size() == 5000
print("seen: mean / k and variance / k^2, skewness NaN after add")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
