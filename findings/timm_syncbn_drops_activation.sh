#!/usr/bin/env bash
# torch.nn.SyncBatchNorm.convert_sync_batchnorm, the usual line before distributed
# training, replaces every subclass of BatchNorm by a plain SyncBatchNorm. In timm's
# models a BatchNormAct2d is norm and activation in one module: after the conversion all
# these activations are gone, silently, and nothing fails. An efficientnet_b0 answers
# other numbers by five orders of magnitude; a resnet18, whose ReLUs are modules of their
# own, is unchanged. timm has a function of the same name that keeps them.
# Guessed: a conversion of the synchronisation changes no forward in eval mode.
# timm 1.0.31, torch 2.14.1, torchvision 0.29.1, seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 &&
       "$work/venv/bin/pip" install -q --no-compile timm==1.0.31; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import warnings
from importlib.metadata import version

import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

warnings.simplefilter("error")
print("timm", version("timm"), "torch", torch.__version__)


def largest_change(name, convert):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        after = convert(model).eval()(images)
    return float((after - before).abs().max() / before.abs().max())


for name, changed in (("resnet18", False), ("efficientnet_b0", True), ("mobilenetv3_small_100", True)):
    by_torch = largest_change(name, nn.SyncBatchNorm.convert_sync_batchnorm)
    by_timm = largest_change(name, convert_sync_batchnorm)
    print(f"{name}: largest change of the output, relative: torch's conversion {by_torch:.3g}, timm's {by_timm:.3g}")
    assert (by_torch > 100 if changed else by_torch < 1e-4) and by_timm < 1e-4, (name, by_torch, by_timm)
PY
"$work/venv/bin/python" "$work/probe.py"
