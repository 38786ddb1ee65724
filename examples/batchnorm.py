"""Is BatchNorm's running variance stale? A small CNN on scikit-learn's digits, trained in seconds, twice.

    python examples/batchnorm.py [FOLDER]

Both models have the same weights after training: momentum changes only the running statistics, which serve in
evaluation mode. The second collects them too slowly (0.001); they still are near their start, 0 and 1, when
training ends. With FOLDER it leaves the report of each there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import normprobe

TRAIN, BATCH, EPOCHS = 1500, 50, 4


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of values 0 to 1, shape (images, 1, 8, 8), shuffled by seed 0, and their digits."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[order], torch.tensor(data.target)[order]


def train(images: Tensor, labels: Tensor, momentum: float) -> nn.Sequential:
    """A CNN with two BatchNorm2d, trained for a few epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32, momentum=momentum), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch, target in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose digit is found, in evaluation mode."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def running_against_observed(recording: normprobe.Recording) -> pd.DataFrame:
    """Per BatchNorm, medians over its channels: the variance it collected, and the one it sees."""
    rows = recording.features.query("kind == 'batch_norm' and site == 'input'")
    running, observed = rows["running_var"], rows["seen_variance"]
    table = {"running variance": running, "observed": observed, "ratio": running / observed}
    return pd.DataFrame(table).groupby(rows["layer"]).median().rename_axis(None)


def main(folder: Path | None = None) -> None:
    """Train both, probe both on images they have not seen, and say which is stale."""
    images, labels = digits()
    for name, momentum in (("healthy", 0.1), ("stale", 0.001)):
        model = train(images[:TRAIN], labels[:TRAIN], momentum)
        recording = normprobe.record(model, images[TRAIN:].split(BATCH)).annotate(name=f"digits, {name}")
        score = accuracy(model, images[TRAIN:], labels[TRAIN:])
        print(f"Momentum {momentum}: {score:.0%} of {len(images) - TRAIN} new images right")
        print(running_against_observed(recording).to_string(float_format="{:.3f}".format))
        findings = [
            f"{row.title} ({row.severity}): {row.message}" for row in recording.findings().itertuples()
        ]
        print("\n".join(findings or ["No findings"]))
        if folder is not None:
            print(f"Report  {recording.report(folder / name)}")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
