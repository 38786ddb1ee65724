#!/usr/bin/env bash
# Folding a BatchNorm into a convolution that is called twice (weights shared between
# branches or pyramid levels, each with its own BatchNorm) gives wrong numbers without
# any complaint. torch.fx.experimental.optimization.fuse folds both BatchNorms into the
# one shared weight; ao.quantization fuse_modules does the like for a conv that is used
# again after the BatchNorm. The graph has no BatchNorm left to tell.
# Why it matters: whoever compares statistics before and after folding, or reads norm
# parameters back out of a folded conv, gets a model that computes something else.
# torch 2.13.0 (CPU), seen 2026-11-29.
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
import copy, torch, torch.nn as nn
from torch.fx.experimental.optimization import fuse
from torch.ao.quantization import fuse_modules
print("torch", torch.__version__)
torch.manual_seed(0)

class TwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    def forward(self, x):
        return self.n1(self.conv(x)) + self.n2(self.conv(x * 2))

class UsedAgain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.n1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    def forward(self, x):
        return self.conv(self.n1(self.conv(x)))

class OneEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.n1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    def forward(self, x):
        return self.n1(self.conv(x))

def ready(cls):
    m = cls()
    with torch.no_grad():
        for _ in range(20):
            m(torch.randn(8, 4, 6, 6) * 3 + 1)
    return m.eval()

x = torch.randn(2, 4, 6, 6)
print("expected: the folded model equals the model, or folding is refused")
with torch.no_grad():
    for cls in (OneEach, TwoNorms, UsedAgain):
        m = ready(cls)
        f = fuse(copy.deepcopy(m))
        left = sum(isinstance(k, nn.BatchNorm2d) for k in f.modules())
        e = (f(x) - m(x)).abs().max().item()
        print(f"fx fuse, {cls.__name__:9s}: largest error {e:.3g} (largest output {m(x).abs().max():.3g})")
        if cls is OneEach: assert e < 1e-4
        else: assert e > 1e-2, e
        if cls is TwoNorms:
            assert "n1" not in f.code and "n2" not in f.code
    m = ready(UsedAgain)
    e = (fuse_modules(copy.deepcopy(m), [["conv", "n1"]])(x) - m(x)).abs().max().item()
    print(f"ao fuse_modules, UsedAgain: largest error {e:.3g}")
    assert e > 1e-2
print("seen: silently wrong in all shared cases")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
