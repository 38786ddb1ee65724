#!/usr/bin/env bash
# torchextractor, which collects the outputs of named layers, keeps references. Where an
# in-place activation follows (BatchNorm, then ReLU(inplace=True): most CNNs), what it
# returns under the norm's name is the activation's output: no negative number is left
# of a norm whose output has mean 0. With inplace=False it gives the norm's output, and
# captum's LayerActivation does so with either.
# Guessed: the output of the layer that was named.
# Why it matters: mean and variance "after normalization" are those of a ReLU.
# torchextractor 0.3.0, captum 0.9.0, torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 tqdm packaging matplotlib==3.11.2 &&
       "$work/venv/bin/pip" install -q --no-compile --no-deps torchextractor==0.3.0 captum==0.9.0; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
from importlib.metadata import version

import torch
import torchextractor
from captum.attr import LayerActivation
from torch import nn

print("torchextractor", version("torchextractor"), "captum", version("captum"), "torch", torch.__version__)
torch.manual_seed(0)


def norm_output(inplace):
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 8, 3))
    net.add_module("norm", nn.BatchNorm2d(8))
    net.add_module("act", nn.ReLU(inplace=inplace))
    net.eval()
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        right = net.norm(net.conv(x))
        _, features = torchextractor.Extractor(net, ["norm"])(x)
    by_captum = LayerActivation(net, net.norm).attribute(x)
    return [f"mean {t.mean():.3f} min {t.min():.3f}" for t in (right, features["norm"], by_captum)], (
        torch.equal(features["norm"], right),
        torch.equal(features["norm"], right.relu()),
        torch.equal(by_captum, right),
    )


for inplace in (False, True):
    said, same = norm_output(inplace)
    print(f"ReLU(inplace={inplace}): right {said[0]}; torchextractor {said[1]}; captum {said[2]}")
    assert same == ((False, True, True) if inplace else (True, False, True)), same
PY
"$work/venv/bin/python" "$work/probe.py"
