#!/usr/bin/env bash
# torch-pruning follows channels through norms and shrinks LayerNorm and BatchNorm
# rightly. nn.RMSNorm it treats as a loose parameter: the weight loses its channels, but
# normalized_shape stays, so the pruned model raises on its first forward; a GroupNorm
# keeps num_groups and raises likewise when the channels left do not divide. The
# pruning itself reports nothing.
# Why it matters: modules that describe a norm by normalized_shape or num_groups and by
# its weight then contradict each other, and a probe that allocates per-feature buffers
# from the former has the wrong width. torch-pruning 1.6.1, seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import torch, torch.nn as nn, torch_pruning as tp
from importlib.metadata import version
print("torch", torch.__version__, "torch-pruning", version("torch-pruning"))
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self, norm):
        super().__init__(); self.a = nn.Linear(6, 8); self.norm = norm; self.b = nn.Linear(8, 4)
    def forward(self, x): return self.b(self.norm(self.a(x)))
print("expected: the norm has 6 features everywhere and the model runs")
out = {}
for norm in (nn.LayerNorm(8), nn.BatchNorm1d(8), nn.GroupNorm(4, 8), nn.RMSNorm(8)):
    m = Net(norm).eval()
    g = tp.DependencyGraph().build_dependency(m, torch.randn(2, 6))
    g.get_pruning_group(m.a, tp.prune_linear_out_channels, idxs=[0, 1]).prune()
    n = m.norm
    try:
        r = tuple(m(torch.randn(2, 6)).shape)
    except (RuntimeError, ValueError) as e:
        r = type(e).__name__
    out[type(n).__name__] = (tuple(n.weight.shape), getattr(n, "normalized_shape", None), r)
    print(f"{str(n):70s} weight {tuple(n.weight.shape)} forward: {r}")
assert out["LayerNorm"] == ((6,), (6,), (2, 4)) and out["BatchNorm1d"][2] == (2, 4)
assert out["RMSNorm"] == ((6,), (8,), "RuntimeError"), out
assert out["GroupNorm"][0] == (6,) and out["GroupNorm"][2] in ("RuntimeError", "ValueError")
print("seen: RMSNorm with 6 weights for 8 features")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
