"""Does the BatchNorm score follow the accuracy lost, and what does recalibration win back?

``python -m benchmarks.batchnorm [--seeds N]`` trains CNNs with BatchNorm on two thirds of scikit-learn's
digits and corrupts the rest in 26 ways, at three strengths. It prints Spearman's rank correlation of the
score with the accuracy lost, beside that of plain averages of the distances over channels, and which share of
the accuracy lost recalibration on the corrupted images, without labels, wins back.
"""

from __future__ import annotations

import argparse
import copy
import warnings

import pandas as pd
import torch
from torch import Tensor, nn

import normprobe
from benchmarks.batchnorm.corruptions import OTHER, PHOTOMETRIC
from benchmarks.findings.models_fitted import cnn, digits
from benchmarks.findings.networks_held_out import resnet

TRAIN = 1200


def pooled() -> nn.Module:
    """Convolutions with max pooling, then a hidden layer; BatchNorm before every ReLU."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(192, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)),
    )


MODELS = {"cnn": cnn, "resnet": resnet, "pooled": pooled}


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Train in batches of 64, and return the model in evaluation mode."""
    step = torch.optim.AdamW(model.train().parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
            step.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            step.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


def measure(name: str, seed: int, epochs: int = 12, strengths: int = 3) -> pd.DataFrame:
    """Train one model, and return a row per corruption and strength."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    learn, held = order[:TRAIN], order[TRAIN:]
    torch.manual_seed(seed)
    model = train(MODELS[name](), x[learn], y[learn], epochs)
    clean, rows = accuracy(model, x[held], y[held]), []
    for kind, corruption in [*PHOTOMETRIC.items(), *OTHER.items()]:
        for strength, corrupt in enumerate(corruption[:strengths]):
            images = corrupt(x[held])
            recording = normprobe.record(model, list(images.split(128)), values=0)
            audit = normprobe.batchnorm.audit(recording)
            mended = copy.deepcopy(model)
            normprobe.batchnorm.recalibrate(mended, [images])
            found = accuracy(model, images, y[held])
            rows.append(
                {
                    **{"model": name, "seed": seed, "corruption": kind, "strength": strength},
                    **{"photometric": kind in PHOTOMETRIC, "lost": clean - found},
                    "won": accuracy(mended, images, y[held]) - found,
                    "score": normprobe.batchnorm.score(recording),
                    **{"mean KL": audit["kl"].mean(), "mean Hellinger": audit["hellinger"].mean()},
                    "Hellinger, last layer": audit["hellinger"].iloc[-1],
                }
            )
    return pd.DataFrame(rows)


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation with the accuracy lost, per model and seed: all, then photometric."""
    columns = ["score", "mean KL", "mean Hellinger", "Hellinger, last layer"]
    found = {}
    for (name, seed), some in rows.groupby(["model", "seed"], sort=False):
        for which, part in (("all", some), ("photometric", some[some["photometric"]])):
            found[name, seed, which] = part[columns].corrwith(part["lost"], method="spearman")
    table = pd.DataFrame(found).T
    table.index.names = ["model", "seed", "corruptions"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="models trained of each kind")
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    rows = pd.concat([measure(name, seed) for name in MODELS for seed in seeds], ignore_index=True)
    table = correlations(rows)
    print(table.round(2).to_string(), end="\n\n")
    print("Spearman with the accuracy lost, mean:")
    print(table.groupby("corruptions").mean().round(2).to_string(), end="\n\n")
    kinds = rows.groupby("corruption", sort=False)[["lost", "won", "score"]].mean()
    kinds["won back"] = kinds["won"] / kinds["lost"]
    print(kinds.round(2).to_string(), end="\n\n")
    for which, part in (("all", rows), ("photometric", rows[rows["photometric"]])):
        print(f"{which}: {part['won'].sum() / part['lost'].sum():.0%} of the accuracy lost is won back")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
