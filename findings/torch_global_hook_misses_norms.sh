#!/usr/bin/env bash
# A global forward hook (register_module_forward_hook) sees every module call, except
# inside an eval-mode nn.TransformerEncoderLayer without gradients: there the fused
# fast path runs and both LayerNorms, the attention and the linears are never called.
# The layer checks for hooks on its own submodules before it takes the fast path (those
# hooks do fire), but not for global ones.
# Why it matters: a watcher installed once for all modules records norms in training
# and silently records none in evaluation, although the model is the same.
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
import torch, torch.nn as nn
from torch.nn.modules.module import register_module_forward_hook
print("torch", torch.__version__)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
x = torch.randn(2, 5, 16)
seen = []
h = register_module_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
ya = layer(x)
with_grad = list(seen); seen.clear()
with torch.no_grad():
    yb = layer(x)
no_grad = list(seen); seen.clear()
h.remove()
local = []
hs = [m.register_forward_hook(lambda m, i, o: local.append(type(m).__name__)) for m in layer.modules()]
with torch.no_grad():
    layer(x)
for k in hs: k.remove()
print("expected: two LayerNorm calls seen each time (same model, same input)")
print("global hook, grad on :", with_grad)
print("global hook, no_grad :", no_grad)
print("local hooks, no_grad :", local)
assert torch.allclose(ya, yb, atol=1e-5)
assert with_grad.count("LayerNorm") == 2
assert local.count("LayerNorm") == 2
assert no_grad == ["TransformerEncoderLayer"], no_grad
print("seen: 2, 0 and 2 LayerNorm calls")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
