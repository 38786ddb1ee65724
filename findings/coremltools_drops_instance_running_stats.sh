#!/usr/bin/env bash
# An InstanceNorm trained with track_running_stats=True normalizes by its running
# statistics in eval mode. coremltools converts it to a plain instance_norm, which
# normalizes every input by its own mean and variance: the running statistics are not
# in the program at all, nothing warns. A BatchNorm beside it keeps them.
# Why it matters: before the conversion the output carries the input's offset and
# contrast, after it every channel has mean 0 and variance 1, so recorded statistics of
# the two models cannot match. coremltools 9.0 with torch 2.13.0, seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile coremltools==9.0 torch==2.13.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import logging, os, numpy as np, torch, torch.nn as nn
os.environ["TQDM_DISABLE"] = "1"
logging.disable(logging.CRITICAL)
import coremltools as ct
print("coremltools", ct.__version__, "torch", torch.__version__)
torch.manual_seed(0)
data = lambda: torch.randn(8, 3, 16) * 3 + 7
def program(m, x):
    p = ct.convert(torch.jit.trace(m, x), inputs=[ct.TensorType(shape=tuple(x.shape))], convert_to="milinternal",
                   compute_precision=ct.precision.FLOAT32)
    o = list(p.functions["main"].operations)
    return [k.op_type for k in o if k.op_type != "const"], [np.asarray(k.outputs[0].val) for k in o if k.op_type == "const"]
res = {}
print("expected: the running mean (about 7) is a constant of both programs")
for cls in (nn.BatchNorm1d, nn.InstanceNorm1d):
    m = cls(3, affine=True, track_running_stats=True)
    for _ in range(100): m(data())
    m.eval()
    x = torch.randn(2, 3, 16) * 0.5 + 9
    ops, consts = program(m, x)
    held = any(c.size == 3 and np.allclose(c.ravel(), m.running_mean.numpy(), rtol=1e-3) for c in consts)
    with torch.no_grad(): y = m(x)
    print(f"{cls.__name__:14s} running mean {m.running_mean.mean().item():.2f}; operations {[k for k in ops if 'norm' in k]}, running mean in the program: {held}; "
          f"torch eval output mean {y.mean().item():.3f} variance {y.var().item():.3f}")
    res[cls] = (ops, held, y)
assert "batch_norm" in res[nn.BatchNorm1d][0] and res[nn.BatchNorm1d][1]
ops, held, y = res[nn.InstanceNorm1d]
assert "instance_norm" in ops and "batch_norm" not in ops and not held
own = torch.nn.functional.instance_norm(x)
print(f"what instance_norm computes on that input: mean {own.mean().item():.3f} variance {own.var().item():.3f}, largest difference {(own - y).abs().max().item():.2f}")
assert y.mean().item() > 0.3 and abs(own.mean().item()) < 1e-3 and (own - y).abs().max().item() > 0.5
print("seen: the running statistics are gone")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
