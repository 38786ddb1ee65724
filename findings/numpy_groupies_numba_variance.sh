#!/usr/bin/env bash
# numpy_groupies.aggregate(labels, x, func="var") changes its answer when numba gets
# installed. Without numba it centres the data; with numba the default engine becomes a
# one-pass sum of squares, and on float64 values around 1e8 with sd 1 the variances come
# out wrong by whole units and can be negative; on float32 that happens at mean 1e4.
# Why it matters: the same call in the same script, only another package in the
# environment; per-group (per-channel) variances of offset activations are where it
# bites. numpy-groupies 0.16.0 with numba 0.68.1, seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile numpy-groupies==0.16.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import subprocess, sys, numpy as np
from importlib.metadata import version
code = r'''
import numpy as np, numpy_groupies as npg
z = np.random.default_rng(0).standard_normal(99_999); g = np.arange(99_999) % 3
print(npg.aggregate.__module__)
for x in (z + 1e8, (z + 1e4).astype("f4")):
    print(*npg.aggregate(g, x, func="var"), *[x[i::3].astype("f8").var() for i in range(3)])
'''
def ask():
    o = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    return o[0], [np.array([float(v) for v in l.split()]).reshape(2, 3) for l in o[1:]]
print("numpy-groupies", version("numpy-groupies"), "numpy", np.__version__)
m0, without = ask()
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "numba==0.68.1", "numpy==2.4.6"], check=True,
               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
m1, with_nb = ask()
print("expected: the same variances (about 1) before and after numba is installed")
for what, a, b in zip(("float64, mean 1e8", "float32, mean 1e4"), without, with_nb):
    print(what)
    print("   truth        ", a[1].round(4))
    print("   without numba", a[0].round(4), "from", m0)
    print("   with numba   ", b[0].round(4), "from", m1)
    assert np.allclose(a[0], a[1], rtol=1e-2)
    assert np.abs(b[0] - b[1]).max() > 1, b
assert with_nb[0][0].min() < 0, "no negative variance any more"
print("seen: installing numba turns variances of 1 into tens, hundreds and below zero")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
