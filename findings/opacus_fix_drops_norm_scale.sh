#!/usr/bin/env bash
# Opacus' ModuleValidator.fix, which turns BatchNorm into GroupNorm, starts the new
# norms from nothing: scale and shift of a trained model are dropped (2 and 3 become 1
# and 0), as is eps, without a warning; and the number of groups is the greatest common
# divisor of 32 and the channels, so that 48 channels get 16 groups of 3 and 17 channels
# one group (a norm over all channels). Guessed: scale, shift and eps are carried over,
# and 32 groups or as many as channels.
# Why it matters: "the same model with GroupNorm" is another function and has to be
# trained; two models of one family with other widths normalize over other sets.
# opacus 1.6.0, torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 opt_einsum==3.4.0 &&
       "$work/venv/bin/pip" install -q --no-compile --no-deps opacus==1.6.0; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import warnings
from importlib.metadata import version
import torch
from torch import nn
from opacus.validators import ModuleValidator

print("opacus", version("opacus"), "torch", torch.__version__)
norm = nn.BatchNorm2d(48, eps=1e-3)
nn.init.constant_(norm.weight, 2.0)
nn.init.constant_(norm.bias, 3.0)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    fixed = ModuleValidator.fix(nn.Sequential(nn.Conv2d(3, 48, 1), norm).eval())[1]
about = [str(w.message) for w in said if "weight" in str(w.message).lower()]
print("48 channels:", fixed, "scale", fixed.weight[0].item(), "shift", fixed.bias[0].item(), "warned:", about)
assert isinstance(fixed, nn.GroupNorm) and fixed.num_groups == 16
assert fixed.weight.eq(1).all() and fixed.bias.eq(0).all() and fixed.eps == 1e-5 and not about
groups = {}
for channels in (17, 30, 64, 100):
    groups[channels] = ModuleValidator.fix(nn.Sequential(nn.BatchNorm2d(channels)))[0].num_groups
print("groups by channels:", groups)
assert groups == {17: 1, 30: 2, 64: 32, 100: 4}
PY

"$work/venv/bin/python" "$work/probe.py"
