#!/usr/bin/env bash
# numpy averages float16 in float32, but not the other half-width types: arrays of
# ml_dtypes (bfloat16, the float8s) are added up one by one in their own few bits. The
# mean of 10,000 ones in bfloat16 is 0.0256, since the sum stays at 256; in float8_e4m3fn
# the sum stays at 16. std is as wrong, and along axis 0 or 1 there are other answers
# again. With dtype=np.float32 all are right. Guessed: the mean of a half-width type goes
# through float32, as float16's does.
# Why it matters: weights and activations read from ONNX, JAX or safetensors files come
# as such arrays, and x.mean() is what everybody types; nothing warns.
# numpy 2.4.6, ml_dtypes 0.6.0, onnx 1.23.2, seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.23.2 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import warnings
from importlib.metadata import version

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

warnings.simplefilter("error")
print("numpy", np.__version__, "ml_dtypes", version("ml_dtypes"), "onnx", version("onnx"))


def seen(dtype):
    ones = np.ones(10_000, dtype)
    return float(ones.mean()), float(ones.mean(dtype=np.float32)), float(ones.reshape(100, 100).mean(1)[0])


shown = {t.__name__: seen(t) for t in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)}
for name, (mean, as_float32, row) in shown.items():
    print(f"{name}: mean of 10,000 ones {mean:.6g}, with dtype=float32 {as_float32:.6g}, of a row of 100 {row:.6g}")

values = np.random.default_rng(0).normal(3, 1, 100_000).astype(np.float32)
tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [len(values)], values)
weight = numpy_helper.to_array(tensor)
print("a bfloat16 initializer of an ONNX model, N(3, 1): dtype", weight.dtype, "mean", float(weight.mean()), "std",
      float(weight.std()), "right:", weight.astype(np.float64).mean().round(3), weight.astype(np.float64).std().round(3))

assert shown["float16"] == (1.0, 1.0, 1.0), shown
assert 0.02 < shown["bfloat16"][0] < 0.03 and shown["bfloat16"][1] == 1.0 and shown["bfloat16"][2] == 1.0, shown
assert shown["float8_e4m3fn"][0] < 0.01 and shown["float8_e4m3fn"][1] == 1.0, shown
assert weight.dtype == ml_dtypes.bfloat16 and float(weight.mean()) < 0.1 and float(weight.std()) < 0.6
PY
"$work/venv/bin/python" "$work/probe.py"
