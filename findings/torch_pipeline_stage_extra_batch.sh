#!/usr/bin/env bash
# torch.distributed.pipelining: the first step of a PipelineStage runs the real module
# once more than there are microbatches, to learn the output shape, and does so on the
# first microbatch itself. A training-mode BatchNorm counts that as a batch: after 4
# microbatches num_batches_tracked is 5, and the first one has been taken in twice.
# Why it matters: forward hooks fire for that run too, so a recorder of moments counts
# the first microbatch twice, only on the first step, and running statistics differ
# from the same microbatches fed by hand. One process is enough to see it.
# torch 2.13.0 (CPU, gloo, world size 1), seen 2026-11-29.
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
import os, tempfile, torch, torch.nn as nn, torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
print("torch", torch.__version__)
f = os.path.join(tempfile.mkdtemp(dir="."), "store")
dist.init_process_group("gloo", init_method="file://" + os.path.abspath(f), rank=0, world_size=1)
torch.manual_seed(0)
x = torch.randn(16, 4) + 10
bn = nn.BatchNorm1d(4)
means = []
bn.register_forward_hook(lambda m, i, o: means.append(round(i[0].mean().item(), 4)))
ref = nn.BatchNorm1d(4)
for part in x.chunk(4):
    ref(part)
stage = PipelineStage(nn.Sequential(bn), 0, 1, torch.device("cpu"))
ScheduleGPipe(stage, 4, loss_fn=None).step(x)
dist.destroy_process_group()
print("expected: 4 calls, num_batches_tracked 4, the running mean of 4 microbatches")
print("by hand : tracked", ref.num_batches_tracked.item(), "running_mean", ref.running_mean.tolist(), "running_var", ref.running_var.tolist())
print("pipeline: tracked", bn.num_batches_tracked.item(), "running_mean", bn.running_mean.tolist(), "running_var", bn.running_var.tolist())
print("means of the inputs that the hook saw:", means)
assert ref.num_batches_tracked.item() == 4
assert bn.num_batches_tracked.item() == 5
assert len(means) == 5 and means[0] == means[1] and len(set(means)) == 4
assert not torch.allclose(bn.running_var, ref.running_var)
print("seen: the first microbatch runs twice")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
