#!/usr/bin/env bash
# onnxscript's optimizer folds a BatchNormalization with training_mode=1 into the Conv
# before it, when nothing reads the two running-statistics outputs. In that mode the
# node normalizes by the statistics of the BATCH; the fold bakes in the running ones, so
# the optimized graph computes something else, and no norm is left in it. When one of
# the running outputs is a graph output the same optimizer leaves the node alone.
# Why it matters: training graphs and deliberately batch-normalizing models lose their
# norm in a step that is meant to keep values. onnxscript 0.7.2, seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile onnx==1.23.2 onnxscript==0.7.2 onnx-ir==1.1.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import numpy as np, onnx, onnxscript.optimizer, onnxscript
from onnx import TensorProto as TP, helper as H, numpy_helper as NH
from onnx.reference import ReferenceEvaluator
print("onnx", onnx.__version__, "onnxscript", onnxscript.__version__)
rng = np.random.default_rng(0)
S = [2, 4, 6, 6]
inits = {"w": rng.standard_normal((4, 4, 3, 3)).astype("f4"), "s": np.ones(4, "f4"), "b": np.zeros(4, "f4"), "m": np.zeros(4, "f4"), "v": np.ones(4, "f4")}
def model(training, watch):
    nodes = [H.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
             H.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y", "rm", "rv"] if training else ["y"], training_mode=training)]
    outs = [H.make_tensor_value_info("y", TP.FLOAT, S)] + ([H.make_tensor_value_info("rm", TP.FLOAT, [4])] if watch else [])
    m = H.make_model(H.make_graph(nodes, "g", [H.make_tensor_value_info("x", TP.FLOAT, S)], outs,
                     [NH.from_array(v, k) for k, v in inits.items()]), opset_imports=[H.make_opsetid("", 18)])
    m.ir_version = 10
    onnx.checker.check_model(m, full_check=True)
    return m
x = {"x": (rng.standard_normal(S) * 2 + 1).astype("f4")}
print("expected: optimizing keeps the values")
err, ops = {}, {}
for key in ((0, False), (1, True), (1, False)):
    m = model(*key)
    o = onnxscript.optimizer.optimize(m)
    a, b = ReferenceEvaluator(m).run(None, x)[0], ReferenceEvaluator(o).run(None, x)[0]
    err[key], ops[key] = float(np.abs(a - b).max()), [n.op_type for n in o.graph.node]
    print(f"training_mode={key[0]}, running mean is an output: {key[1]!s:5s}: nodes {ops[key]}, largest change {err[key]:.3g}, "
          f"output variance {a.var():.3f} -> {b.var():.3f}")
assert ops[0, False] == ["Conv"] and err[0, False] < 1e-3
assert "BatchNormalization" in ops[1, True] and err[1, True] < 1e-5
assert ops[1, False] == ["Conv"] and err[1, False] > 1
print("seen: a batch-statistics norm silently becomes a plain convolution")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
