#!/usr/bin/env bash
# Ghost batch norm in pytorch-tabnet: virtual_batch_size is an upper bound, not the size
# that is normalized together. The batch is cut into ceil(rows / virtual_batch_size)
# equal parts, so with 128 a batch of 129 rows is normalized as 65 and 64, one of 257 as
# 86, 86 and 85. Guessed: parts of 128 and a rest.
# Why it matters: how noisy the batch statistics are, and what the running statistics
# collect, changes by a factor of 2 with one row more; the size to look up when a
# TabNet's BatchNorm is judged is that of its calls, not the one in its arguments.
# pytorch-tabnet 4.1.0, torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 &&
       "$work/venv/bin/pip" install -q --no-compile --no-deps pytorch-tabnet==4.1.0; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
from importlib.metadata import version
import torch
from pytorch_tabnet.tab_network import GBN

print("pytorch-tabnet", version("pytorch-tabnet"), "torch", torch.__version__)
torch.manual_seed(0)
norm = GBN(4, virtual_batch_size=128, momentum=1.0).train()
parts = []
norm.bn.register_forward_pre_hook(lambda module, args: parts.append(len(args[0])))
seen = {}
for rows in (128, 129, 256, 257, 300):
    parts.clear()
    norm(torch.randn(rows, 4))
    seen[rows] = list(parts)
    print(f"{rows} rows, virtual batches of {seen[rows]}")
assert seen[128] == [128] and seen[256] == [128, 128], seen
assert seen[129] == [65, 64], seen
assert seen[257] == [86, 86, 85] and seen[300] == [100, 100, 100], seen
PY

"$work/venv/bin/python" "$work/probe.py"
