"""The LayerNorm tutorial through normprobe: five numbers, a Linear with LayerNorm, BatchNorm beside it.

    python examples/layernorm_tutorial.py [FOLDER]

With FOLDER it leaves there the 2 x 3 figure, the same panel of BatchNorm, both side by side, and the report.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from scipy.stats import spearmanr
from torch import nn

import normprobe
from normprobe.figures import norm_panel, norm_variances

SITES = {"before": "input", "after": "output"}
SAMPLES, INPUTS, FEATURES = 100, 100, 50


def five_numbers() -> normprobe.Recording:
    """LayerNorm on one sample of five features; the model is itself the layer, so its name is empty."""
    return normprobe.record(nn.LayerNorm(5), torch.tensor([2.0, 3.0, 5.0, 1.0, 4.0]))


def run(norm: nn.Module) -> normprobe.Recording:
    """Linear(100, 50) -> the norm, once, on 100 samples of 100 standard normal inputs; seed 0, weights first.

    In training mode, as a new model is: BatchNorm normalizes with the statistics of this batch.
    """
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(linear=nn.Linear(INPUTS, FEATURES), norm=norm))
    inputs = torch.randn(SAMPLES, INPUTS)
    with normprobe.Probe(model, samples="all", values=SAMPLES) as probe, torch.no_grad():
        model(inputs)
    return probe.recording.annotate(name=f"Linear -> {type(norm).__name__}")


def trained_norm() -> nn.LayerNorm:
    """A LayerNorm whose affine part does something: weights 0.5 to 1.5, biases -1 to 1."""
    norm = nn.LayerNorm(FEATURES)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, FEATURES))
        norm.bias.copy_(torch.linspace(-1, 1, FEATURES))
    return norm


def of_sample(recording: normprobe.Recording, layer: str, example: int = 0) -> pd.DataFrame:
    """One sample before and after: its mean over the features, its variance with both divisors."""
    rows = recording.samples.query("layer == @layer and example == @example").set_index("site")
    n = recording.layers.query("layer == @layer")["n_features"].iloc[0]
    return both_divisors(rows, n)


def of_features(recording: normprobe.Recording, layer: str) -> pd.DataFrame:
    """The features before and after: mean and variance over the samples, averaged over the features."""
    rows = recording.features.query("layer == @layer").groupby("site")[["mean", "variance", "count"]].mean()
    return both_divisors(rows, rows["count"])


def both_divisors(rows: pd.DataFrame, n: int | pd.Series) -> pd.DataFrame:
    """Normprobe divides by n, as the norms do; torch's ``.var()`` divides by n - 1."""
    variance = rows["variance"]
    table = {"mean": rows["mean"], "variance / n": variance, "variance / (n - 1)": variance * n / (n - 1)}
    return pd.DataFrame(table).loc[list(SITES.values())].set_axis(list(SITES), axis="index")


def row_of(recording: normprobe.Recording, site: str, example: int = 0) -> np.ndarray:
    """The raw values of one sample at the norm, shape (features,); values and samples come in one order."""
    kept = recording.samples.query("layer == 'norm' and site == @site")["example"].tolist()
    return recording.values("norm", site)[kept.index(example)]


def order_kept(recording: normprobe.Recording, *, within: str = "sample") -> float:
    """Spearman's rank correlation of before and after, averaged over the samples (or over the features).

    1: the norm keeps the order of the features within each sample (of the samples within each feature).
    """
    before, after = (recording.values("norm", site) for site in SITES.values())
    if within == "feature":
        before, after = before.T, after.T
    return float(np.mean([spearmanr(x, y).statistic for x, y in zip(before, after, strict=True)]))


def ranges(recording: normprobe.Recording) -> list[str]:
    """Variances after the norm, per feature and per sample, and the order it keeps."""
    rows = []
    for table in (recording.features, recording.samples):
        variance = table.query("layer == 'norm' and site == 'output'")["variance"]
        rows.append(f"{variance.min():.3f} to {variance.max():.3f}")
    return [*rows, f"{order_kept(recording):.3f}", f"{order_kept(recording, within='feature'):.3f}"]


def draw(recording: normprobe.Recording, file: Path) -> None:
    """The tutorial's 2 x 3 figure: normprobe's panel, with one sample's own charts in the last column."""
    axes = norm_panel(recording, "norm")
    before, after = (row_of(recording, site) for site in SITES.values())
    for ax, title in ((axes[2], "Sample 0, before"), (axes[5], "Variance of sample 0")):
        ax.clear()
        ax.set_title(title, loc="left", fontsize=8.4, fontweight="bold")
        ax.tick_params(labelsize=7.6, length=0)
    sns.histplot(x=before, bins=20, color="#0b62a8", linewidth=0, ax=axes[2])
    colours = {"before": "#0b62a8", "after": "#b84a08"}
    sns.barplot(x=list(SITES), y=[before.var(), after.var()], hue=list(SITES), palette=colours, ax=axes[5])
    for ax in (axes[2], axes[5]):
        ax.set(xlabel="", ylabel="")
    axes[0].figure.savefig(file, dpi=150, facecolor="white")


def shown(table: pd.DataFrame) -> str:
    """The table with three decimals and no minus before a zero."""
    return (table.round(3) + 0.0).to_string(float_format="{:.3f}".format)


def main(folder: Path | None = None) -> None:
    """Print the numbers; draw and report into the folder, if there is one."""
    layer_norm, batch_norm = run(nn.LayerNorm(FEATURES)), run(nn.BatchNorm1d(FEATURES))
    bare, trained = run(nn.LayerNorm(FEATURES, elementwise_affine=False)), run(trained_norm())

    print("LayerNorm on the sample [2, 3, 5, 1, 4]\n" + shown(of_sample(five_numbers(), "")))
    print(
        "\nLinear(100, 50) -> LayerNorm(50) on 100 samples: sample 0\n" + shown(of_sample(layer_norm, "norm"))
    )
    print("\nThe same: its 50 features, on average\n" + shown(of_features(layer_norm, "norm")))

    names = ["variance per feature", "variance per sample", "order of features kept", "order of samples kept"]
    columns = {
        "LayerNorm": layer_norm,
        "without affine": bare,
        "affine 0.5 to 1.5": trained,
        "BatchNorm": batch_norm,
    }
    table = pd.DataFrame({name: ranges(recording) for name, recording in columns.items()}, index=names)
    print(
        "\nAfter the norm, least to largest (/ n). Order: rank correlation, 1 = kept.\n" + table.to_string()
    )

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        draw(layer_norm, folder / "tutorial.png")
        panel = norm_panel(batch_norm, "norm")
        panel[0].figure.savefig(folder / "batch_norm.png", dpi=150, facecolor="white")
        sides = norm_variances({"LayerNorm": layer_norm, "BatchNorm": batch_norm}, "norm")
        sides[0].figure.savefig(folder / "side_by_side.png", dpi=150, facecolor="white")
        print(f"\nReport  {layer_norm.report(folder)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
