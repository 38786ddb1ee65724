"""Statistics of every norm and Linear in a loop of one's own, as numbers and histograms in TensorBoard.

    python examples/own_loop.py [FOLDER]

`normprobe.scalars` and `normprobe.histograms` are dicts, which any tracker takes: `wandb.log(scalars)`,
`mlflow.log_metrics(scalars, step)`, `wandb.Histogram(np_histogram=histogram)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import normprobe


def log(writer: SummaryWriter, recording: normprobe.Recording, step: int) -> None:
    """Write what stands out in a recording."""
    for name, value in normprobe.scalars(recording).items():
        writer.add_scalar(name, value, step)
    for name, (counts, edges) in normprobe.histograms(recording).items():
        middles = (edges[1:] + edges[:-1]) / 2
        writer.add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=np.sum(counts * middles),
            sum_squares=np.sum(counts * middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )


def main(folder: Path) -> None:
    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    model = nn.Sequential(nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with normprobe.Probe(model, every=2, window=10, out=folder / "run.windows") as probe:
        for step, (images, digits) in enumerate(zip(x[:1500].split(50), y[:1500].split(50), strict=True)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), digits).backward()
            optimizer.step()
            probe.step(step)

    recording = probe.recording
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for row in recording.windows.itertuples():
            log(writer, recording.window(row.window), row.last_step)
    print(recording.windows[["phase", "first_step", "last_step", "forwards"]].to_string(index=False))
    print()
    for name, value in normprobe.scalars(recording, limit=7).items():
        print(f"{name:40} {value:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "loop"))
