"""Statistics of every norm and Linear while Lightning trains a small network on digits.

    python examples/lightning_trainer.py [FOLDER]

Training and validation are phases of their own, the sanity check is left out. Each 20 steps a window ends,
and its numbers go to the trainer's logger: `tensorboard --logdir FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normprobe.integrations.lightning import NormMonitor


class Digits(pl.LightningModule):
    """A BatchNorm between two Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        right = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", right)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Digits to train on, and others to validate with."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    parts = TensorDataset(x[:1500], y[:1500]), TensorDataset(x[1500:], y[1500:])
    return DataLoader(parts[0], batch_size=50), DataLoader(parts[1], batch_size=50)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    monitor = NormMonitor(every=2, out=folder / "run.windows", gradients=True)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[monitor],
        logger=pl.loggers.TensorBoardLogger(folder),
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Digits(), *loaders())

    recording = monitor.recording
    print(recording.windows[["phase", "first_step", "last_step", "forwards"]].to_string(index=False))
    print("\nWhat the BatchNorm reads, by phase:")
    layers = recording.over_time("layers").query("layer == 'net.1' and site == 'input'")
    print(layers[["phase", "last_step", "mean", "variance"]].round(2).to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "trainer"))
