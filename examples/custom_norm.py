"""A norm of one's own, taught to normprobe with `register_view`; and what only looks like one, left out.

    python examples/custom_norm.py [FOLDER]

With FOLDER it leaves the CSV tables and the norm's panel there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import normprobe
from normprobe.figures import norm_panel


class UnitLoudness(nn.Module):
    """Divides each pixel by the mean |value| of its channels; neither name nor eps says it is a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, channels, height, width) over the channels."""
        return x / x.abs().mean(dim=1, keepdim=True) * self.gain[:, None, None]


class NormalNoise(nn.Module):
    """Adds a little noise: `norm` is in its name, but it normalizes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with noise."""
        return x + 0.01 * torch.randn_like(x)


def build() -> nn.Sequential:
    """A small model with both, and a Linear behind them; seed 0."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        UnitLoudness(8),
        NormalNoise(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def main(folder: Path | None = None) -> None:
    """Record the model as it is, then after both classes are registered."""
    model, images = build(), torch.randn(16, 3, 12, 12)
    columns = ["layer", "kind", "type", "status", "sample_unit"]

    print("By rule:\n" + normprobe.record(model, images).ledger[columns].to_string(index=False))

    # Each pixel is normalized on its own, over axis 1, and the scale is called `gain`.
    normprobe.register_view(UnitLoudness, kind="norm", axis=1, sample="position", weight="gain")
    normprobe.register_view(NormalNoise, kind=None)
    recording = normprobe.record(model, images)

    print("\nRegistered:\n" + recording.ledger[columns].to_string(index=False))
    moments = recording.layers.query("kind == 'norm'")
    moments = moments[["site", "n_samples", "n_features", "variance", "abs_mean"]]
    print("\nBefore and after:\n" + moments.to_string(index=False, float_format="{:.3f}".format))
    gain = recording.features.query("kind == 'norm' and site == 'output'")["weight"]
    print(f"\nScale as applied, by channel: {gain.tolist()}")
    if folder is not None:
        recording.to_csv(folder)
        norm_panel(recording, "1")[0].figure.savefig(folder / "norm.png", dpi=150, facecolor="white")
        print(f"Tables and figure in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
