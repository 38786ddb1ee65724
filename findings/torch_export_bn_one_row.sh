#!/usr/bin/env bash
# Eager training BatchNorm refuses a batch with one value per channel. torch.export of
# the same training module loses that check: with a dynamic batch declared as 1..64 the
# exported program takes one row, returns rows of about zero, and turns running_var
# into NaN (the sample variance divides by n - 1 = 0), which then stays NaN for good.
# Why it matters: the last, short batch of an epoch ends every later evaluation; a
# recorder of batch variances sees a legal 0 for that batch while the buffer is NaN.
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
from torch.export import Dim, export
print("torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
ep = export(model, (torch.randn(4, 3),), dynamic_shapes=({0: Dim("rows", min=1, max=64)},))
print("range of the batch:", {str(k): str(v) for k, v in ep.range_constraints.items()})
try:
    model(torch.randn(1, 3)); raise SystemExit("eager accepted one row")
except ValueError as e:
    print("eager:", e)
g = ep.module()
g(torch.randn(8, 3))
before = g.state_dict()["1.running_var"].clone()
print("expected: the exported program refuses one row too, or leaves running_var finite")
y = g(torch.randn(1, 3))
after = g.state_dict()["1.running_var"].clone()
g(torch.randn(64, 3))
later = g.state_dict()["1.running_var"]
print("running_var before", before.tolist())
print("output of one row ", [round(v, 6) for v in y[0].tolist()])
print("running_var after ", after.tolist(), "and after a full batch", later.tolist())
assert before.isfinite().all()
assert y.isfinite().all() and y.abs().max() < 1e-2
assert after.isnan().all() and later.isnan().all()
assert g.state_dict()["1.running_mean"].isfinite().all()
try:
    g(torch.randn(65, 3)); raise SystemExit("65 rows accepted")
except Exception as e:
    print("65 rows are refused:", str(e).splitlines()[0][:80])
print("seen: NaN in running_var, no error")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
