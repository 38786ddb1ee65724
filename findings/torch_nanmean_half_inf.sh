#!/usr/bin/env bash
# torch.nanmean is documented as identical to torch.mean when there is no NaN. On float16
# it is not: it divides nansum by a count and the sum is stored as float16 first, so
# 100000 numbers around 10 have the nanmean inf (torch.mean: 10). torch.masked goes
# further on the same finite data: masked.mean is inf and masked.var is NaN, where
# torch.var says 1.
# Why it matters: NaN-safe or masked moments are just what is used on activations with
# padding; a few thousand half-precision values are enough to lose them. Pass
# dtype=torch.float32. torch 2.13.0 (CPU), seen 2026-11-29.
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
torch.manual_seed(0)
x = (torch.randn(100_000) + 10).half()
assert x.isfinite().all()
t = x.double()
print("expected: every row about mean", round(t.mean().item(), 4), "variance", round(t.var().item(), 4))
r = {"mean": x.mean(), "nanmean": x.nanmean(), "nanmean dtype=float32": x.nanmean(dtype=torch.float32),
     "masked.mean": torch.masked.mean(x), "var": x.var(), "masked.var": torch.masked.var(x)}
for k, v in r.items():
    print(f"{k:22s} {v.item()}")
few = (torch.randn(7000) + 10).half()
print("with only 7000 values: mean", few.mean().item(), "nanmean", few.nanmean().item())
assert abs(r["mean"].item() - 10) < 0.05 and abs(r["var"].item() - 1) < 0.05
assert r["nanmean"].item() == float("inf")
assert abs(r["nanmean dtype=float32"].item() - 10) < 0.05
assert r["masked.mean"].item() == float("inf")
assert r["masked.var"].isnan().item()
assert few.nanmean().item() == float("inf")
print("seen: inf and NaN from finite data whose mean and variance fit easily")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
