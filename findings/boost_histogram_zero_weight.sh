#!/usr/bin/env bash
# boost-histogram's WeightedMean (running mean and variance of weighted numbers) turns to
# NaN for good if the first number it meets has weight 0: later numbers do not mend it,
# and every accumulator that it is added to becomes NaN too. A weight of 0 anywhere later
# is left out, as it should be. Guessed: weight 0 is no number, in any order.
# Why it matters: weights of 0 and 1 are how a mask is given; with padding on the left
# the first position of every text is masked.
# boost-histogram 1.8.1, numpy 2.4.6, seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile numpy==2.4.6 boost-histogram==1.8.1 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
from importlib.metadata import version
from math import isnan

from boost_histogram.accumulators import WeightedMean

print("boost-histogram", version("boost-histogram"))
numbers = [5.0, 1.0, 2.0, 6.0]


def filled(weights):
    found = WeightedMean()
    found.fill(numbers, weight=weights)
    return found


last, middle, first = filled([1, 1, 1, 0]), filled([1, 0, 1, 1]), filled([0, 1, 1, 1])
print("weight 0 last:  ", last)
print("weight 0 middle:", middle)
print("weight 0 first: ", first)
first.fill([3.0] * 1000, weight=[1] * 1000)
print("and after 1,000 more:", first)
print("added to a sound one:", last + first)
assert abs(last.value - 8 / 3) < 1e-12 and abs(middle.value - 13 / 3) < 1e-12, (last, middle)
assert isnan(first.value) and isnan(first.variance) and isnan((last + first).value), first
PY
"$work/venv/bin/python" "$work/probe.py"
