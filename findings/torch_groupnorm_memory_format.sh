#!/usr/bin/env bash
# GroupNorm on CPU gives another answer when the same numbers are laid out
# channels_last. The contiguous kernel centres before squaring; the channels_last one
# takes mean(x^2) - mean(x)^2 in float32. At mean 1e3, sd 1 the output is off by whole
# units; at mean 1e4 it reaches the thousands where 5 is the largest right value.
# Why it matters: an input whose measured mean and variance are the same gives a
# normalized output of variance 1 or of variance in the millions, only by its strides;
# LayerNorm and BatchNorm on the same data are fine. torch 2.13.0 (CPU), 2026-11-29.
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
import torch, torch.nn.functional as F
print("torch", torch.__version__)
torch.set_num_threads(1)
torch.manual_seed(0)
z = torch.randn(2, 64, 32, 32)
print("expected: the memory format changes speed, not values")
worst = {}
for mean in (0.0, 1e2, 1e3, 1e4):
    x = z + mean
    y = x.to(memory_format=torch.channels_last)
    assert torch.equal(x, y)
    exact = F.group_norm(x.double(), 4)
    a = (F.group_norm(x, 4) - exact).abs().max().item()
    out = F.group_norm(y, 4)
    b = (out - exact).abs().max().item()
    worst[mean] = (a, b)
    print(f"mean {mean:8.0f}: contiguous err {a:.2e}, channels_last err {b:.2e}, "
          f"output variance {out.double().var().item():.4g}")
assert worst[0.0][1] < 1e-4
assert worst[1e4][0] < 1e-2, "contiguous kernel used to be right"
assert worst[1e3][1] > 0.1 and worst[1e4][1] > 100, worst
x = (z + 1e4).to(memory_format=torch.channels_last)
bn = (F.batch_norm(x, None, None, training=True) - F.batch_norm(x.double(), None, None, training=True)).abs().max().item()
print(f"batch_norm channels_last at mean 1e4: err {bn:.2e}")
assert bn < 0.1
print("seen: only the channels_last GroupNorm loses the variance")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
