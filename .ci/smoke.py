"""Hold an installed normprobe to its word: the C kernel is there, and what it measures is what numpy says.

    python .ci/smoke.py

Run by each wheel's environment, outside the checkout.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import normprobe
from normprobe.kernels import dispatch


def main() -> None:
    """Measure a small model with the kernel that is installed."""
    folder = Path(normprobe.__file__).parent
    assert Path(__file__).resolve().parents[1] not in folder.parents, f"{folder} is the checkout"
    assert dispatch.name() == "c", f"the kernel of {folder} is {dispatch.name()}"
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(48, 48), nn.LayerNorm(48)), 3 * torch.randn(300, 48) + 100
    recording = normprobe.record(model, batch)
    with torch.no_grad():
        truth = {("0", "input"): batch, ("0", "output"): model[0](batch), ("1", "output"): model(batch)}
    for (layer, site), tensor in truth.items():
        rows = tensor.double().numpy()
        found = recording.features.query(f"layer == '{layer}' and site == '{site}'")
        np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found["variance"], rows.var(0), rtol=1e-6)
        assert (found["count"] == len(rows)).all()
    python = f"Python {platform.python_version()}"
    print(
        f"normprobe {normprobe.__version__}, kernel c, {python}, {sys.platform} {platform.machine()}: exact"
    )


if __name__ == "__main__":
    main()
