#!/usr/bin/env bash
# neuraloperator's UnitGaussianNormalizer gives another std when it is fitted in parts:
# from the second batch on partial_fit multiplies the standard deviation, not the
# variance, by n / (n - 1). fit, and a partial_fit in one batch, give the divisor n - 1.
# With 4 values the std is 1.155 times too large, with 100 values 1.005 times.
# Guessed: fitting in parts gives what fitting at once gives, as the mean does.
# Why it matters: two runs that read the same data in other batches normalize their
# inputs differently; the first norm or Linear behind shows it as another variance.
# neuraloperator 2.0.0, torch 2.13.0 (CPU), seen 2026-11-30.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! { "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 requests==2.34.2 \
         opt_einsum==3.4.0 h5py==3.16.0 ruamel.yaml==0.19.1 tqdm==4.70.1 packaging==26.4 &&
       "$work/venv/bin/pip" install -q --no-compile --no-deps neuraloperator==2.0.0 tensorly==0.10.0 \
         tensorly-torch==0.5.0 torch-harmonics==0.9.3; } >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
from importlib.metadata import version
import torch
from neuralop.data.transforms.normalizers import UnitGaussianNormalizer

print("neuraloperator", version("neuraloperator"), "torch", torch.__version__)
torch.manual_seed(0)
for n in (4, 10, 100):
    x = torch.randn(n, 1, dtype=torch.float64)
    whole, once, parts = (UnitGaussianNormalizer(dim=[0]) for _ in range(3))
    whole.fit(x)
    once.partial_fit(x, batch_size=n)
    parts.partial_fit(x, batch_size=2)
    ratio = (parts.std / whole.std).item()
    print(f"{n} values: std by fit {whole.std.item():.4f}, of n - 1 {x.std().item():.4f}, in parts {parts.std.item():.4f}, "
          f"ratio {ratio:.4f}, sqrt(n / (n - 1)) {(n / (n - 1)) ** 0.5:.4f}")
    assert torch.allclose(whole.std.squeeze(), x.std()) and torch.allclose(once.std, whole.std)
    assert torch.allclose(parts.mean, whole.mean)
    assert abs(ratio - (n / (n - 1)) ** 0.5) < 1e-6
PY

"$work/venv/bin/python" "$work/probe.py"
