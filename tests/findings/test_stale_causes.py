"""Why running statistics are stale: of how many batches they are, and how the inputs were scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normprobe

STALE = ["stale_running_statistics"]


def images(count: int = 64) -> torch.Tensor:
    """Images of 0..1, shape (count, 3, 12, 12), smooth so that convolutions see structure."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    return nn.functional.interpolate(coarse, size=12, mode="bilinear")


def cnn(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(),
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.Flatten(1),
    )  # fmt: skip


def trained(model: nn.Sequential, updates: int, data: torch.Tensor) -> nn.Sequential:
    """Batches in training mode, which move running statistics alone; then weights that are no longer 1."""
    model.train()
    with torch.no_grad():
        for step in range(updates):
            model(data[step % 4 :: 4])
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(1.1)
    return model.eval()


def found(model: nn.Module, data: torch.Tensor) -> Any:
    table = normprobe.record(model, [data]).findings(STALE)
    assert len(table) == 1
    return table.iloc[0]


def test_too_few_updates_are_counted_and_blamed_instead_of_the_preprocessing() -> None:
    finding = found(trained(cnn(), 5, images()), images())
    assert finding["layer"] == "1"
    # (1 - 0.1)^5
    assert "collected over 5 batches with momentum 0.1: 59% is still the initial value" in finding["message"]
    assert "normprobe.batchnorm.recalibrate(model, batches)" in finding["advice"]
    assert "--recalibrate" in finding["advice"]
    assert "preprocessing" not in finding["advice"]
    assert "the same holds for 2 BatchNorm layers, this one first" in finding["message"]


def test_a_small_momentum_after_many_updates_is_too_few_as_well() -> None:
    finding = found(trained(cnn(momentum=0.001), 60, images()), images())
    assert "over 60 batches with momentum 0.001: 94% is still the initial value" in finding["message"]
    assert "preprocessing" not in finding["advice"]


def test_enough_updates_leave_the_preprocessing_to_be_compared() -> None:
    data = images()
    finding = found(trained(cnn(), 100, data), 5 * data)
    assert finding["message"].endswith("They were collected over 100 batches.")
    assert finding["advice"].startswith(
        "Compare the preprocessing with that of training; if it is right, rec"
    )


@pytest.mark.parametrize("updates", [2, 5])
def test_a_cumulative_average_holds_nothing_of_the_initial_value(updates: int) -> None:
    data = images()
    recording = normprobe.record(trained(cnn(momentum=None), updates, data), [5 * data])
    assert recording.ledger["num_batches_tracked"].dropna().tolist() == [updates, updates]
    finding = recording.findings(STALE).iloc[0]
    assert finding["message"].endswith(f"They were collected over {updates} batches.")
    assert "initial" not in finding["message"]


def test_statistics_whose_batches_nobody_counted_say_nothing_of_them() -> None:
    data = images()
    model = trained(cnn(), 100, data)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    assert "collected" not in found(model, 5 * data)["message"]


def test_few_updates_do_not_explain_what_the_initial_value_does_not_make() -> None:
    data = images()
    # 12 updates leave 28 %; images 255 times too large have 65,025 times the variance.
    finding = found(trained(cnn(), 12, data), 255 * data)
    assert "28% is still the initial value" in finding["message"]
    assert finding["advice"].startswith("Compare the preprocessing")
    # Nor is the factor that is seen that of the images.
    assert "look" not in finding["message"]


SCALES = {
    "bytes for 0..1": (lambda x: x, lambda x: 255 * x, "255 times too large: 0..255 where 0..1 was"),
    "0..1 for bytes": (lambda x: 255 * x, lambda x: x, "255 times too small: 0..1 where 0..255 was"),
    "divided by 255 twice": (
        lambda x: x,
        lambda x: x / 255,
        "255 times too small: 0..1 where 0..255 was trained on, or divided by 255 twice?",
    ),
    "-1..1 for bytes": (lambda x: 255 * x, lambda x: 2 * x - 1, "128 times too small: -1..1 where 0..255"),
    "ImageNet's for bytes": (
        lambda x: 255 * x,
        lambda x: (x - 0.45) / 0.226,
        "57.6 times too small: normalized with ImageNet's mean and deviation where 0..255 was",
    ),
    "bytes for -1..1": (lambda x: 2 * x - 1, lambda x: 255 * x, "128 times too large: 0..255 where -1..1"),
    "bytes for ImageNet's": (
        lambda x: (x - 0.45) / 0.226,
        lambda x: 255 * x,
        "57.6 times too large: 0..255 where images normalized with ImageNet's mean and deviation were",
    ),
    "normalized twice": (
        lambda x: (x - 0.45) / 0.226,
        lambda x: ((x - 0.45) / 0.226 - 0.45) / 0.226,
        "4.42 times too large: normalized with ImageNet's mean and deviation twice?",
    ),
    "not normalized": (
        lambda x: (x - 0.45) / 0.226,
        lambda x: x,
        "4.42 times too small: not normalized with ImageNet's mean and deviation?",
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_usual_mistake_in_scaling_images_is_named(case: str) -> None:
    right, wrong, words = SCALES[case]
    data = images()
    finding = found(trained(cnn(), 100, right(data)), wrong(data))
    assert words in finding["message"]
    assert finding["advice"].startswith("Prepare the inputs as for training")


def test_data_so_small_that_eps_hides_their_variance_are_measured_without_it() -> None:
    data = images()
    for factor, guess in ((127.5, "look 128 times too small"), (57.6, "look 57.6 times"), (20.0, None)):
        message = found(trained(cnn(), 100, data), data / factor)["message"]
        # The layer divides by sqrt(variance + eps), and so does what the finding measures.
        assert "times smaller than the running variance (eps included)" in message
        assert guess in message if guess else "look" not in message
    message = found(trained(cnn(), 100, data - 0.5), 5 * (data - 0.5))["message"]
    assert "In the median channel the observed variance is 25 times larger than the running v" in message


@pytest.mark.parametrize("factor", [3.0, 4.0, 10.0, 100.0 * 4])
def test_no_other_factor_is_called_so(factor: float) -> None:
    data = images()
    assert "look" not in found(trained(cnn(), 100, data), factor * data)["message"]


def test_the_range_of_data_that_a_linear_reads_is_named_or_speaks_against_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32))
    data = torch.rand(256, 12)
    data[0, 0], data[0, 1] = 0, 1
    model.train()
    for _ in range(100):
        model(data)
    with torch.no_grad():
        model[1].weight.mul_(1.1)
    model.eval()
    finding = found(model, 255 * data)
    assert "The inputs, which range over 0 to 255, look 255 times too large: 0..255" in finding["message"]
    # Larger by as much, and no bytes.
    assert "look" not in found(model, 255 * data + 300)["message"]


def test_what_never_was_updated_says_how_to_see_it_normalize() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)).eval()
    finding = found(model, torch.randn(64, 8))
    assert (finding["title"], finding["severity"]) == ("Running statistics were never updated", "info")
    assert 'record(model, batches, mode="train"), or call the model under Probe' in finding["advice"]
    with torch.no_grad():
        model[1].weight.mul_(1.1)
    finding = found(model, torch.randn(64, 8))
    assert finding["severity"] == "error"
    assert "Load the buffers too" in finding["advice"]
    assert "normprobe.batchnorm.recalibrate(model, batches)" in finding["advice"]


def test_the_count_is_saved_merged_and_missing_where_there_is_none(tmp_path: Path) -> None:
    data = images()
    model = trained(cnn(), 5, data)
    one, two = (normprobe.record(model, [half]) for half in data.split(32))
    saved = normprobe.load(one.save(tmp_path / "one.normprobe"))
    for recording in (one, saved, normprobe.merge(one, two)):
        assert recording.ledger.set_index("layer")["num_batches_tracked"].to_dict() == {"1": 5, "4": 5}
    model.train()
    with torch.no_grad():
        model(data)
    later = normprobe.record(model.eval(), [data])
    assert normprobe.merge(one, later).ledger["num_batches_tracked"].isna().all()
    others = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False))
    ledger = normprobe.record(others, [torch.randn(16, 8)]).ledger
    assert ledger["num_batches_tracked"].isna().all()
