#!/usr/bin/env bash
# A tensor hook on the output of nn.Linear, which is to see that output's gradient, is
# never called if an in-place activation follows and the input had three axes or more:
# the output is then a view of a matrix, and writing to a view gives it a new place in
# the graph, while the hook stays on the old one, which nothing reaches. With a 2-D
# input, without a bias, or with an activation out of place it is called; nothing warns.
# Guessed: as documented for in-place changes, a hook put on before sees the gradient
# with respect to the values before.
# Why it matters: gradient monitors that hook outputs lose the Linear layers of a
# transformer with in-place activations, and only those.
# torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import warnings

import torch
from torch import nn

warnings.simplefilter("error")
print("torch", torch.__version__)
SIZES = {"2-D": (6, 4), "3-D": (2, 3, 4)}


def calls(axes, *, bias, inplace):
    torch.manual_seed(0)
    seen = []
    output = nn.Linear(4, 4, bias=bias)(torch.randn(SIZES[axes]))
    output.register_hook(lambda gradient: seen.append(gradient.shape))
    nn.ReLU(inplace=inplace)(output).sum().backward()
    return len(seen)


for axes in SIZES:
    for bias in (True, False):
        for inplace in (False, True):
            number = calls(axes, bias=bias, inplace=inplace)
            print(f"{axes} input, bias {bias}, in-place ReLU {inplace}: hook called {number} times")
            lost = axes == "3-D" and inplace and bias
            assert number == (0 if lost else 1), (axes, bias, inplace, number)
PY
"$work/venv/bin/python" "$work/probe.py"
