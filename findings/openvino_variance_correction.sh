#!/usr/bin/env bash
# The same torch model with a variance in it gets two different meanings in OpenVINO. By
# the traced path correction=2 (or any other number above 1) is taken as 1, silently;
# by the torch.export path such a model is refused, but there x.var() over the whole
# tensor, by default the sample variance (n - 1), comes out as the population variance
# (n). Both are right for correction 0 and for a variance along one dimension.
# Why it matters: a model that measures or normalizes by its own variance changes by
# (n - 1)/n or (n - 2)/(n - 1), small enough to pass as rounding, large for few rows.
# openvino 2026.4.1, torch 2.13.0 (CPU), seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile openvino==2026.4.1 torch==2.13.0 numpy==2.4.6 packaging==26.4 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi
"$work/venv/bin/pip" uninstall -q -y openvino-telemetry >>"$work/pip.log" 2>&1  # no usage reports

cat >"$work/probe.py" <<'PY'
import numpy as np, openvino as ov, torch, torch.nn as nn
print("openvino", ov.__version__, "torch", torch.__version__)
torch.manual_seed(0)
x = torch.randn(4, 10)
core = ov.Core()
class Measure(nn.Module):
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, t): return self.f(t)
cases = {"x.var()": lambda t: t.var(), "x.var(1)": lambda t: t.var(1), "x.var(1, correction=0)": lambda t: t.var(1, correction=0),
         "x.var(1, correction=2)": lambda t: t.var(1, correction=2), "x.std(1, correction=5)": lambda t: t.std(1, correction=5)}
got = {}
print("expected: OpenVINO divided by torch = 1 in every row, or a refusal")
for name, f in cases.items():
    want = f(x).numpy()
    for how in ("trace", "export"):
        m = Measure(f).eval()
        try:
            o = ov.convert_model(m, example_input=x) if how == "trace" else ov.convert_model(torch.export.export(m, (x,)))
            r = core.compile_model(o, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x.numpy())[0]
            got[name, how] = float(np.ravel(r / want)[0])
            assert np.allclose(r / want, got[name, how], rtol=1e-4)
        except Exception as e:
            if type(e).__name__ != "OpConversionFailure": raise
            got[name, how] = None
    show = [f"{how} " + ("refused" if got[name, how] is None else f"{got[name, how]:.5f}") for how in ("trace", "export")]
    print(f"{name:24s}", ", ".join(show))
near = lambda k, v: got[k] is not None and abs(got[k] - v) < 1e-4
for k in ("x.var(1)", "x.var(1, correction=0)"):
    assert near((k, "trace"), 1) and near((k, "export"), 1)
assert near(("x.var()", "trace"), 1) and near(("x.var()", "export"), 39 / 40), got
assert near(("x.var(1, correction=2)", "trace"), 8 / 9) and got["x.var(1, correction=2)", "export"] is None
assert near(("x.std(1, correction=5)", "trace"), (5 / 9) ** 0.5)
print("seen: 39/40 by torch.export, 8/9 and sqrt(5/9) by tracing")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
