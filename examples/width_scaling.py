"""Does a net train alike at every width? muP's coordinate check, on a standard and a mu-parametrized MLP.

    python examples/width_scaling.py [FOLDER] [--seeds 3] [--steps 3]

Both nets learn to read digits for a few steps with Adam, at widths from 64 to 1024. `normprobe.scaling` fits,
layer by layer and step by step, how the mean |x| of what a layer writes grows with the width. A slope of 0
says that it keeps its size.

The mu-parametrization is that of Yang et al. 2022, "Tensor Programs V" (arXiv:2203.03466), table 3, for Adam.
Against the standard one, with n the width over a base width:

    layer     variance of the initial weights   learning rate
    first     as before                         as before
    hidden    as before                         divided by n
    last      divided by n                      divided by n
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe import figures

BASE, WIDTHS = 64, (64, 128, 256, 512, 1024)
RATE = 0.01


def digits() -> tuple[Tensor, Tensor]:
    """256 images of 64 pixels, and which digits they show."""
    found = load_digits()
    return torch.tensor(found.data[:256] / 16, dtype=torch.float32), torch.tensor(found.target[:256])


def net(width: int) -> nn.Sequential:
    """An MLP whose weights have variance 1 / fan_in, the standard one."""
    layers = {
        "first": nn.Linear(64, width),
        "tanh": nn.Tanh(),
        "hidden": nn.Linear(width, width),
        "tanh_2": nn.Tanh(),
        "last": nn.Linear(width, 10),
    }
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(OrderedDict(layers))


def standard(width: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """The standard parametrization: one learning rate for all."""
    model = net(width)
    return model, torch.optim.Adam(model.parameters(), lr=RATE)


def mu_parametrized(width: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """The mu-parametrization: equal to the standard one at the base width."""
    model, n = net(width), width / BASE
    with torch.no_grad():
        model.last.weight /= n**0.5
    scaled = [model.hidden.weight, model.last.weight]
    rest = [parameter for parameter in model.parameters() if all(parameter is not one for one in scaled)]
    groups = [{"params": scaled, "lr": RATE / n}, {"params": rest, "lr": RATE}]
    return model, torch.optim.Adam(groups)


PARAMETRIZATIONS = {"standard": standard, "mu": mu_parametrized}


def train(kind: str, width: int, seed: int, steps: int) -> normprobe.Recording:
    """Train a net for some steps; the recording has a window for each forward, the first before any step."""
    torch.manual_seed(seed)
    model, optimizer = PARAMETRIZATIONS[kind](width)
    images, labels = digits()
    with normprobe.Probe(model, window=1, samples=0, values=0, part=f"{kind} {width} {seed}") as probe:
        for step in range(steps + 1):
            probe.step(step)
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return probe.recording


def slopes(recordings: dict[int, list[normprobe.Recording]], steps: int) -> pd.DataFrame:
    """The slope of each layer after each step, with its standard error."""
    found = {}
    for step in range(steps + 1):
        fitted = normprobe.scaling({w: [r.window(step) for r in of] for w, of in recordings.items()})
        found[step] = fitted.set_index("layer").agg(
            lambda row: f"{row['slope']:+.2f} ± {row['standard_error']:.2f}", axis=1
        )
    return pd.DataFrame(found).rename_axis(columns="steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    figure = Figure(figsize=(10.6, 6.4))
    charts = figure.subplots(2)
    figure.subplots_adjust(left=0.08, right=0.76, hspace=0.5)
    for chart, kind in zip(charts, PARAMETRIZATIONS, strict=True):
        recordings = {
            width: [train(kind, width, seed, options.steps) for seed in range(options.seeds)]
            for width in WIDTHS
        }
        print(f"{kind}: slope of log mean |output| over log width, after so many steps")
        print(slopes(recordings, options.steps).to_string(), end="\n\n")
        last = {width: [one.window(options.steps) for one in of] for width, of in recordings.items()}
        figures.width_scaling(last, ax=chart)
        chart.set_title(f"{kind}, after {options.steps} steps: mean |output| over the width", loc="left")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.folder / "width_scaling.png", dpi=150)


if __name__ == "__main__":
    main()
