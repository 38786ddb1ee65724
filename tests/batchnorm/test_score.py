"""On a CNN trained on digits the score follows the accuracy lost, and recalibration wins it back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import normprobe
from normprobe.batchnorm import audit, recalibrate, score


def blurred(x: Tensor, size: int) -> Tensor:
    return nn.functional.conv2d(x, torch.full((1, 1, size, size), size**-2.0), padding="same")


def noise(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


PHOTOMETRIC: dict[str, Callable[[Tensor], Tensor]] = {
    "contrast": lambda x: 0.3 * x,
    "strong contrast": lambda x: 4 * x,
    "brightness": lambda x: x + 0.5,
    "strong brightness": lambda x: x + 1,
    "darkness": lambda x: x - 1,
}
CORRUPTIONS = PHOTOMETRIC | {
    "clean": lambda x: x,
    "little noise": lambda x: x + 0.1 * noise(x),
    "noise": lambda x: x + 0.5 * noise(x),
    "blur": lambda x: blurred(x, 3),
    "strong blur": lambda x: blurred(x, 5),
    "shift": lambda x: x.roll(2, 3),
    "occlusion": lambda x: x * (torch.arange(8) > 3)[:, None],
    "gamma": lambda x: x**3,
    "stripes": lambda x: x + 0.5 * (torch.arange(8) % 2),
    "inverted": lambda x: 1 - x,
}


def images() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]


def trained(seed: int) -> pd.DataFrame:
    """A row per corruption: the accuracy lost and won back, the score, the distance of plain channels."""
    torch.manual_seed(seed)
    x, y = images()
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    )
    step = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(8):
        for some in torch.arange(1200).split(50):
            step.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
            step.step()
    model.eval()

    def accuracy(net: nn.Module, seen: Tensor) -> float:
        with torch.no_grad():
            return float((net(seen).argmax(1) == y[1200:]).float().mean())

    found = []
    for name, corrupt in CORRUPTIONS.items():
        seen = corrupt(x[1200:])
        recording = normprobe.record(model, seen, values=0)
        mended = copy.deepcopy(model)
        recalibrate(mended, seen)
        before = accuracy(model, seen)
        plain = audit(recording)["kl"].mean()
        found.append(
            (
                name,
                accuracy(model, x[1200:]) - before,
                accuracy(mended, seen) - before,
                score(recording),
                plain,
            )
        )
    return pd.DataFrame(found, columns=["name", "lost", "won", "score", "plain"]).set_index("name")


@pytest.fixture(scope="module")
def trainings() -> list[pd.DataFrame]:
    """The same of several networks: what one is like depends on its seed and on the processor's rounding."""
    return [trained(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def rows(trainings: list[pd.DataFrame]) -> pd.DataFrame:
    """That of the first."""
    return trainings[0]


def test_the_model_is_good_and_corruption_harms_it(rows: pd.DataFrame) -> None:
    assert rows["lost"]["clean"] == 0
    assert rows["lost"].max() > 0.7


def test_the_score_follows_the_accuracy_lost_better_than_the_moments_of_channels_alone(
    trainings: list[pd.DataFrame],
) -> None:
    follows = [rows[["score", "plain"]].corrwith(rows["lost"], method="spearman") for rows in trainings]
    assert pd.DataFrame(follows)["score"].median() > 0.85
    assert all(one["score"] > one["plain"] for one in follows)
    assert all(rows["score"].idxmin() == "clean" for rows in trainings)


def test_recalibration_wins_back_contrast_and_brightness(rows: pd.DataFrame) -> None:
    photometric = rows.loc[list(PHOTOMETRIC)]
    assert photometric["lost"].sum() > 1
    assert photometric["won"].sum() > 0.95 * photometric["lost"].sum()
    assert rows["won"].sum() > 0.45 * rows["lost"].sum()
