#!/usr/bin/env bash
# AveragedModel(use_buffers=True) averages num_batches_tracked too, as an integer: each
# update rounds down, so after 1000 steps the averaged model still says 1 while the
# running mean beside it moves as it should. Plain averaging and both EMA helpers with
# decay 0.999 agree on that 1 (decay 0.99: 901, always about 100 behind).
# Why it matters: num_batches_tracked is the weight of the next batch for a BatchNorm
# with momentum=None, so training on from the averaged model replaces half of the
# gathered statistics with ONE batch (weight 1/2 instead of 1/1001); tools that use the
# counter to tell how full running statistics are, err. torch 2.13.0 (CPU), 2026-11-29.
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
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
print("torch", torch.__version__)
print("expected: a counter near 1000 (copied), 500 (mean of 1..1000) or 370 (EMA)")
for name, kw in (("mean", {}), ("ema", dict(avg_fn=get_ema_avg_fn(0.999))),
                 ("ema multi", dict(multi_avg_fn=get_ema_multi_avg_fn(0.999)))):
    torch.manual_seed(0)
    m = nn.BatchNorm1d(3, momentum=None)
    a = AveragedModel(m, use_buffers=True, **kw)
    with torch.no_grad():
        for _ in range(1000):
            m(torch.randn(16, 3) + 5)
            a.update_parameters(m)
        q = a.module
        n, before = q.num_batches_tracked.item(), q.running_mean.clone()
        print(f"{name:9s}: model {m.num_batches_tracked.item()}, averaged {n}, averaged running_mean {before[0].item():.3f}", end="; ")
        q.train()(torch.full((2, 3), 105.0) + torch.tensor([[1.0], [-1.0]]))
        print(f"after one batch at 105: {q.running_mean[0].item():.2f} (from 1000 batches: {(before[0].item()*1000+105)/1001:.2f})")
    assert m.num_batches_tracked.item() == 1000
    assert n == 1, n
    assert abs(before[0].item() - 5) < 0.1
    assert q.running_mean[0].item() > 50
print("seen: the counter is frozen at 1")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
