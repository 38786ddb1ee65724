#!/usr/bin/env bash
# ONNX GroupNormalization (opset 21) is defined by a function body that takes the
# variance as mean(x^2) - mean(x)^2. Runtimes without a kernel of their own run that
# body, so onnxruntime on CPU and the onnx reference evaluator both give NaN for finite
# float32 input with mean 1e4 and sd 1 (and errors of 0.2 at mean 1e3). The same
# normalization written as InstanceNormalization on the reshaped input is right.
# Why it matters: whether a group norm survives export depends on which of two
# equivalent operators the exporter writes; statistics of the input look harmless.
# onnx 1.23.2, onnxruntime 1.32.0 (CPU), seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto as TP, helper as H, numpy_helper as NH
from onnx.reference import ReferenceEvaluator
print("onnx", onnx.__version__, "onnxruntime", ort.__version__)
S = [2, 8, 16, 16]
def model(nodes, inits):
    g = H.make_graph(nodes, "g", [H.make_tensor_value_info("x", TP.FLOAT, S)], [H.make_tensor_value_info("y", TP.FLOAT, S)],
                     [NH.from_array(v, k) for k, v in inits.items()])
    m = H.make_model(g, opset_imports=[H.make_opsetid("", 21)]); m.ir_version = 10
    onnx.checker.check_model(m, full_check=True)
    return m
group = model([H.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], {"s": np.ones(8, "f4"), "b": np.zeros(8, "f4")})
inst = model([H.make_node("Reshape", ["x", "to"], ["r"]), H.make_node("InstanceNormalization", ["r", "s", "b"], ["n"]),
              H.make_node("Reshape", ["n", "back"], ["y"])],
             {"s": np.ones(2, "f4"), "b": np.zeros(2, "f4"), "to": np.array([2, 2, -1]), "back": np.array(S)})
def run(m, x):
    so = ort.SessionOptions(); so.log_severity_level = 3; so.intra_op_num_threads = 1
    return ort.InferenceSession(m.SerializeToString(), so, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
rng = np.random.default_rng(0)
print("expected: errors of float32 rounding, about mean * 1e-7")
got = {}
for mean in (0.0, 1e2, 1e3, 1e4):
    x = (rng.standard_normal(S) + mean).astype("f4")
    d = x.astype("f8").reshape(2, 2, -1)
    exact = ((d - d.mean(-1, keepdims=True)) / np.sqrt(d.var(-1, keepdims=True) + 1e-5)).reshape(S)
    with np.errstate(all="ignore"):
        e = [np.abs(v - exact).max() for v in (run(group, x), ReferenceEvaluator(group).run(None, {"x": x})[0], run(inst, x))]
    got[mean] = e
    print(f"mean {mean:7.0f}: GroupNormalization onnxruntime {e[0]:.3g}, reference {e[1]:.3g}; InstanceNormalization onnxruntime {e[2]:.3g}")
assert max(got[0.0]) < 1e-4
assert got[1e3][0] > 0.02 and got[1e3][1] > 0.02 and got[1e3][2] < 1e-2
bad = lambda e: np.isnan(e) or e > 1
assert bad(got[1e4][0]) and bad(got[1e4][1]) and got[1e4][2] < 1e-2
print("seen: NaN from GroupNormalization, right numbers from the equivalent graph")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
