#!/usr/bin/env bash
# mup's coordinate check of a module that a forward uses twice: its README says that
# get_coord_data records the last use only. It records every use, a row each under one
# name, and plot_coord_data draws their mean with a band of confidence.
# Why it matters: two uses of one layer, at activations of different size, become one
# curve between them, whose slope over the width is that of neither; the advice to read
# it as the last use misleads.
# mup 1.0.0, torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 pandas==2.3.3 pyyaml==6.0.3 &&
       "$work/venv/bin/pip" install -q --no-compile --no-deps mup==1.0.0; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
from importlib.metadata import version
import torch
from mup.coord_check import get_coord_data
from torch import nn

print("mup", version("mup"), "torch", torch.__version__)
class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)
    def forward(self, x):
        x = self.shared(self.first(x))
        return self.last(self.shared(100 * x))
data = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))]
models = {width: (lambda width=width: Twice(width)) for width in (8, 16)}
found = get_coord_data(models, data, mup=False, lr=0.1, nsteps=1, cuda=False, show_progress=False)
print(found[["width", "module", "t", "l1"]].to_string(index=False))
print("the README: only the statistics of the last use of a module are recorded")
for width in (8, 16):
    once, of_shared = (found[(found.width == width) & (found.module == name)]["l1"] for name in ("last", "shared"))
    assert len(once) == 1 and len(of_shared) == 2, found
    assert of_shared.iloc[1] > 10 * of_shared.iloc[0], found
print("seen: both uses, a row each; their mean is drawn")
PY
"$work/venv/bin/python" -W ignore "$work/probe.py"
