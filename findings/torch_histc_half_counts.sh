#!/usr/bin/env bash
# torch.histc and torch.histogram keep their COUNTS in the dtype of the data. On
# bfloat16 input a bin stops at 256, on float16 at 2048 (from there on adding one no
# longer changes the number), without a warning or an error. The cap is per thread, so
# the counts also change with the number of threads (one is used here).
# Why it matters: activations often are bfloat16; a histogram of 10000 of them taken
# straight from the tensor is flat at 256, loses 90 % of the mass, and any mean or
# variance worked out from the bins is wrong. Cast to float32 before counting.
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
import torch
print("torch", torch.__version__)
torch.set_num_threads(1)
torch.manual_seed(0)
base = torch.randn(10000)
edges = torch.linspace(-4.0, 4.0, 5)
ref = torch.histc(base.clamp(-3.99, 3.99), bins=4, min=-4, max=4)
print("expected: counts that add up to 10000, whatever the dtype of the data")
print("float32  counts", ref.tolist(), "sum", ref.sum().item())
assert ref.sum().item() == 10000.0
seen = {}
for dt, cap in ((torch.bfloat16, 256.0), (torch.float16, 2048.0)):
    x = base.clamp(-3.9, 3.9).to(dt)
    h = torch.histc(x, bins=4, min=-4, max=4)
    g = torch.histogram(x, bins=4, range=(-4.0, 4.0)).hist
    print(f"{str(dt):15s} histc", h.tolist(), "histogram", g.tolist(), "sum", h.double().sum().item())
    assert h.dtype == dt and g.dtype == dt
    assert h.max().item() == cap and g.max().item() == cap, (h, g)
    assert h.double().sum().item() < 10000
    mid = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64)
    def var_from(c):
        c = c.double(); m = (c * mid).sum() / c.sum()
        return ((c * (mid - m) ** 2).sum() / c.sum()).item()
    print(f"   variance read off the bins: true counts {var_from(ref):.3f}, low-precision counts {var_from(h):.3f}")
    seen[dt] = var_from(h)
assert seen[torch.bfloat16] > 2 * var_from(ref)
print("seen: bins saturate at 256 (bfloat16) and 2048 (float16)")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
