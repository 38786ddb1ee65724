"""Every example runs as a stranger runs it, and the tutorial's numbers equal those computed by hand."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import nn

from normprobe.layers import view_registry

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run an example in an empty folder as `python examples/NAME ARGUMENTS`; return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))

    def of(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return of


def functions(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def by_hand(norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Input and output of a norm without affine part, float64, each (100, 50); seed 0, weights first."""
    torch.manual_seed(0)
    linear, inputs = nn.Linear(100, 50), torch.randn(100, 100)
    before = linear(inputs).detach().double().numpy()
    axis = 1 if norm == "layer" else 0
    mean, variance = before.mean(axis, keepdims=True), before.var(axis, keepdims=True)
    return before, (before - mean) / np.sqrt(variance + 1e-5)


def order_kept(before: np.ndarray, after: np.ndarray) -> float:
    """Pearson's correlation of the ranks, averaged over the rows."""
    pairs = zip(rankdata(before, axis=1), rankdata(after, axis=1), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs]))


def test_the_first_token_makes_the_outlier_channels(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    try:
        functions("first_token.py")["checkpoint"]()
    except ImportError as error:
        pytest.skip(str(error))
    printed = run("first_token.py", "figures").splitlines()
    found = {line.split()[0]: numbers(line)[-2:] for line in printed if line.strip().startswith("model.")}
    with_first, without = found["model.layers.12.input_layernorm"]
    assert with_first > 200
    assert 5 < without < 40
    assert printed[-1] == "6 first tokens of 384"
    assert np.asarray(Image.open(tmp_path / "figures" / "first_token.png").convert("L")).std() > 10


def test_there_is_a_test_for_every_example() -> None:
    text = Path(__file__).read_text()
    assert all(f'run("{path.name}"' in text for path in EXAMPLES.glob("*.py"))


def test_the_tutorial_prints_its_numbers(run: Run) -> None:
    printed = run("layernorm_tutorial.py").split("\n\n")
    assert numbers(printed[0]) == [3, 2, 2.5, 0, 1, 1.25]

    before, after = by_hand("layer")
    one = [(x.mean(), x.var(), x.var(ddof=1)) for x in (before[0], after[0])]
    assert numbers(printed[1]) == pytest.approx(np.ravel(one), abs=6e-4)
    features = [(x.mean(), x.var(0).mean(), x.var(0, ddof=1).mean()) for x in (before, after)]
    assert numbers(printed[2]) == pytest.approx(np.ravel(features), abs=6e-4)

    last = printed[3].splitlines()[2:]
    assert [line.rsplit(maxsplit=1)[1] for line in last] == ["1.000", "1.764", "0.984", "1.000"]


def test_the_five_numbers_hold_exactly() -> None:
    table = functions("layernorm_tutorial.py")
    of = table["of_sample"](table["five_numbers"](), "")
    normalized = 2 / (2 + 1e-5)
    assert of.loc["before"].tolist() == pytest.approx([3, 2, 2.5], rel=1e-12)
    assert of.loc["after"].tolist() == pytest.approx([0, normalized, normalized * 5 / 4], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("norm", "kind"), [(nn.LayerNorm(50), "layer"), (nn.LayerNorm(50, elementwise_affine=False), "layer"),
                       (nn.BatchNorm1d(50), "batch")],
)  # fmt: skip
def test_the_tables_of_the_tutorial_equal_those_by_hand(norm: nn.Module, kind: str) -> None:
    tutorial = functions("layernorm_tutorial.py")
    recording = tutorial["run"](norm)
    for site, data in zip(("input", "output"), by_hand(kind), strict=True):
        features = recording.features.query("layer == 'norm' and site == @site")
        samples = recording.samples.query("layer == 'norm' and site == @site").sort_values("example")
        for frame, axis in ((features, 0), (samples, 1)):
            assert frame["mean"].to_numpy() == pytest.approx(data.mean(axis), abs=1e-6)
            assert frame["variance"].to_numpy() == pytest.approx(data.var(axis), rel=1e-5)
        for example in (0, 41):
            row = tutorial["row_of"](recording, site, example)
            assert row == pytest.approx(data[example], abs=1e-5)


def test_layer_norm_keeps_the_order_of_features_and_batch_norm_that_of_samples() -> None:
    tutorial = functions("layernorm_tutorial.py")
    layer, batch = tutorial["run"](nn.LayerNorm(50)), tutorial["run"](nn.BatchNorm1d(50))
    kept = tutorial["order_kept"]
    assert kept(layer) == pytest.approx(1, abs=1e-12)
    assert kept(batch, within="feature") == pytest.approx(1, abs=1e-12)
    before, after = by_hand("batch")
    assert kept(batch) == pytest.approx(order_kept(before, after), abs=1e-4)
    assert kept(batch) < 0.99
    before, after = by_hand("layer")
    assert kept(layer, within="feature") == pytest.approx(order_kept(before.T, after.T), abs=1e-4)


def test_the_affine_part_is_told_apart_from_the_normalization() -> None:
    tutorial = functions("layernorm_tutorial.py")
    recording = tutorial["run"](tutorial["trained_norm"]())
    features = recording.features.query("layer == 'norm' and site == 'output'")
    assert features["weight"].to_numpy() == pytest.approx(np.linspace(0.5, 1.5, 50), rel=1e-6)
    assert features["bias"].to_numpy() == pytest.approx(np.linspace(-1, 1, 50), rel=1e-6)
    _, after = by_hand("layer")
    normalized = features["variance"] / features["weight"] ** 2
    assert normalized.to_numpy() == pytest.approx(after.var(0), rel=1e-5)


def test_the_tutorial_leaves_figures_and_a_report(run: Run) -> None:
    run("layernorm_tutorial.py", "out")
    for name in ("tutorial.png", "batch_norm.png", "side_by_side.png"):
        assert Path("out", name).read_bytes().startswith(b"\x89PNG")
    assert "Linear -&gt; LayerNorm" in Path("out/report.html").read_text()
    assert Path("out/layers.csv").exists()


def test_the_transformer_example(run: Run) -> None:
    lines = run("transformer.py").splitlines()
    assert lines[0] == "8 texts, 110 tokens; 98 positions of padding left out"
    assert lines[1] == "50 of 50 layers fired"
    alone, unmasked = lines[2:4]
    assert float(re.findall(r"\de-\d+", alone)[0]) < 1e-5
    assert float(re.findall(r"(\d+)%", unmasked)[0]) > 50
    profile = [line for line in lines if line.startswith(("embeddings.", "encoder."))]
    assert len(profile) == 13
    assert sum(line.split()[-2:] == ["99", "[CLS]"] for line in profile) >= 10
    assert any("Feature 99 reaches 22" in line for line in lines)


def test_the_batchnorm_example(run: Run) -> None:
    healthy, stale = run("batchnorm.py", "out").strip().split("\n\n")
    right = [float(re.findall(r"(\d+)% of 297", text)[0]) for text in (healthy, stale)]
    assert right[0] > 90
    assert right[1] < 80
    ratios = [[float(line.split()[-1]) for line in text.splitlines()[2:4]] for text in (healthy, stale)]
    assert ratios[0] == pytest.approx([1, 1], abs=0.3)
    assert min(ratios[1]) > 2
    assert "No findings" in healthy
    assert "Running statistics are stale (warning)" in stale
    assert Path("out/healthy/report.html").exists()
    assert Path("out/stale/report.html").exists()


def test_momentum_changes_no_weight() -> None:
    example = functions("batchnorm.py")
    images, labels = example["digits"]()
    two = [dict(example["train"](images[:200], labels[:200], m).named_parameters()) for m in (0.1, 0.001)]
    assert all(torch.equal(parameter, two[1][name]) for name, parameter in two[0].items())


def test_the_custom_norm_example(run: Run) -> None:
    rule, registered, moments, gain = run("custom_norm.py", "out").split("\n\n")
    assert "NormalNoise" in rule
    assert "UnitLoudness" not in rule
    assert "NormalNoise" not in registered
    assert "UnitLoudness" in registered
    assert "2.000" in moments.splitlines()[-1]
    assert gain.count("2.0") == 8
    assert Path("out/norm.png").read_bytes().startswith(b"\x89PNG")
    assert Path("out/features.csv").exists()


def test_the_example_of_four_norms(run: Run) -> None:
    scores, first, second = run("batch_or_layer.py", "out").split("\n\n")
    right = {line.split()[0]: numbers(line) for line in scores.splitlines()[2:]}
    assert set(right) == {"BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm"}
    assert min(row[0] for row in right.values()) > 95
    assert all(len(set(row[:5])) == 1 for name, row in right.items() if name != "BatchNorm")
    assert len(set(right["BatchNorm"][:5])) > 1
    assert all(row[5] <= row[0] <= row[6] for row in right.values())
    # Norms differ by no more than seeds do.
    assert np.ptp([row[0] for row in right.values()]) < max(row[6] - row[5] for row in right.values()) + 0.5
    for norm in (first, second):
        order = {line.split()[0]: numbers(line) for line in norm.splitlines()[-4:]}
        assert order["LayerNorm"] == pytest.approx([1, 0, 0, 0, 0], abs=2e-3)
        kept, *moved = order["BatchNorm"]
        assert kept < 0.9
        assert moved == sorted(moved, reverse=True)
        assert moved[0] > 0.05
        assert moved[-1] == 0
    assert {path.name for path in Path("out").iterdir()} == {"variances.png", "order.png", "batch_size.png"}


def test_the_example_of_neighbours(run: Run) -> None:
    table, exchanged = run("token_neighbours.py").split("\n\n")
    rows = [numbers(line) for line in table.splitlines() if ".LayerNorm" in line]
    assert len(rows) == 13
    kept_layer, kept_batch, before, layer, batch = np.array(rows).T[:5]
    assert kept_layer.min() > 0.97
    assert kept_batch.max() < 0.9
    assert layer == pytest.approx(before, abs=0.011)
    assert batch[-1] > before[-1] + 0.02
    found = [float(line.split()[-1].rstrip("%")) for line in exchanged.splitlines()[1:]]
    assert found[0] > 2 * found[2]
    assert found[1] == pytest.approx(found[0], abs=5)


def test_the_example_of_norms_in_training(run: Run) -> None:
    """Of a short run what does not depend on it: how gradients go through 30 layers, what cannot run."""
    of_mlp, of_recurrent = (
        run("norms_in_training.py", "out", "--seeds", "1", "--steps", "40").strip().split("\n\n")
    )
    rows = {line.split("  ")[0]: re.findall(r"(\S+) \(", line) for line in of_mlp.splitlines()[2:]}
    none, batch, layer = map(float, rows["gradient first / last, before"])
    assert none < 1e-6
    assert batch > 10
    assert 0.01 < layer < 10
    for table in (of_mlp, of_recurrent):
        (line,) = [line for line in table.splitlines() if line.startswith("right, batches of 1 ")]
        assert [found == "nan" for found in re.findall(r"(\S+) \(", line)] == [False, True, False]
    assert {path.name for path in Path("out").iterdir()} == {"MLP.png", "recurrent.png"}


def test_the_example_of_width_scaling(run: Run) -> None:
    tables = run("width_scaling.py", "out", "--seeds", "2", "--steps", "2").strip().split("\n\n")
    slopes = {}
    for table in tables:
        kind = table.partition(":")[0]
        for line in table.splitlines()[3:]:
            name, *fitted = re.split(r"\s{2,}", line)
            slopes[kind, name] = [numbers(text.replace("+", ""))[0] for text in fitted]
    assert set(slopes) == {
        (kind, name) for kind in ("standard", "mu") for name in ("first", "hidden", "last")
    }
    # Before a step both keep their size, but for the last layer, which mu starts smaller.
    assert abs(slopes["standard", "hidden"][0]) < 0.1
    assert slopes["standard", "last"][0] == pytest.approx(0, abs=0.25)
    assert slopes["mu", "last"][0] == pytest.approx(-0.5, abs=0.25)
    # Afterwards one grows with the width, the other does not.
    assert slopes["standard", "last"][2] > 0.7
    assert slopes["standard", "hidden"][2] > 0.3
    assert all(abs(slopes["mu", name][2]) < 0.15 for name in ("first", "hidden", "last"))
    assert [path.name for path in Path("out").iterdir()] == ["width_scaling.png"]


def test_mu_is_the_standard_parametrization_at_the_base_width() -> None:
    example = functions("width_scaling.py")
    losses = {}
    for width in (64, 256):
        for kind, build in example["PARAMETRIZATIONS"].items():
            torch.manual_seed(0)
            model, optimizer = build(width)
            assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
            images, labels = example["digits"]()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            losses[kind, width] = float(nn.functional.cross_entropy(model(images), labels).detach())
    assert losses["mu", 64] == pytest.approx(losses["standard", 64], rel=1e-5)
    assert losses["mu", 256] != pytest.approx(losses["standard", 256], rel=1e-2)


def test_the_example_of_smoothing(run: Run) -> None:
    first, tried, final = run("smoothquant.py", "--strengths", "0.7").strip().split("\n\n")
    assert first.startswith("36 Linear layers, ")
    plain, smoothed = (numbers(line)[-1] for line in tried.splitlines()[1:])
    assert smoothed < plain - 3
    rows = {line[:14].strip(): numbers(line) for line in final.splitlines()[2:5]}
    assert set(rows) == {"last norm", "median Linear", "worst Linear"}
    assert all(after < before - 2 for before, after in rows.values())


def test_smoothing_alone_changes_nothing_and_rounding_leaves_whole_steps() -> None:
    example = functions("smoothquant.py")
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("layers", nn.Sequential(nn.Linear(6, 5)))
    data = torch.randn(40, 6) * torch.tensor([1.0, 1, 1, 50, 1, 1])
    scales = {"layers.0": data.abs().amax(0)}
    int8 = example["quantized"](model, scales, 0.7)
    layer = int8.layers[0]
    # SmoothQuant's factor by hand.
    weight = model.layers[0].weight.detach()
    factor = scales["layers.0"] ** 0.7 / weight.abs().amax(0) ** 0.3
    assert torch.allclose(layer.smooth, factor)
    exact = nn.functional.linear(data / layer.smooth, weight * layer.smooth, model.layers[0].bias)
    assert torch.allclose(exact, model(data), atol=1e-4)
    steps = layer.weight / (weight * factor).abs().amax(1, keepdim=True) * 127
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max().item() == pytest.approx(127, abs=1e-3)
    made = {"plain": example["quantized"](model, scales, None), "smoothed": int8}
    error = {name: float((one(data) - model(data)).detach().square().mean()) for name, one in made.items()}
    assert 0 < error["smoothed"] < error["plain"] / 2


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What files of TensorBoard hold: steps and numbers by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    names = read.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in names}


@pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")
def test_the_example_of_transformers(run: Run) -> None:
    pytest.importorskip("tensorboard")
    text = run("transformers_trainer.py", "out")
    table, variances = text[text.index("     phase") :].split("\n\n")
    assert table.split().count("validation") == 2
    assert len(numbers(variances)) == 6
    assert numbers(variances)[-1] > 2 * numbers(variances)[0]
    # Transformers 4 keeps each run in a folder of its own there.
    logged = scalars_in(next(Path("out/runs").rglob("normprobe")))
    assert [step for step, _ in logged["normprobe/nonfinite"]] == [10, 20, 30, 40, 50, 60]
    assert "normprobe/validation/nonfinite" in logged


@pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")
def test_the_example_of_lightning(run: Run) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("tensorboard")
    table, moments = run("lightning_trainer.py", "out").split("\n\n")
    assert table.split().count("validation") == 2
    assert min(numbers(line)[1] for line in moments.splitlines()[2:]) > 5
    logged = scalars_in(next(Path("out").glob("lightning_logs/*")))
    assert [step for step, _ in logged["normprobe/net.1/input/variance"]] == [20, 40, 60]
    assert logged["normprobe/net.0/weight/update_ratio"][0][1] > 0


@pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")
def test_the_example_of_a_loop_of_ones_own(run: Run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    printed = run("own_loop.py", "out")
    logged = scalars_in(Path("out/tensorboard"))
    assert [step for step, _ in logged["normprobe/1/input/variance"]] == [9, 19, 29]
    assert "normprobe/1/input/variance" in printed
    read = EventAccumulator("out/tensorboard").Reload()
    histogram = read.Histograms("normprobe/1/output")[0].histogram_value
    assert histogram.num == 64 * 48
    assert abs(histogram.sum / histogram.num) < 0.1
    assert histogram.sum_squares / histogram.num == pytest.approx(1, abs=0.1)


@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no chromium with chromedriver on the path: the report is not photographed",
)
def test_the_pictures_of_the_readme_can_be_made_again(run: Run) -> None:
    run("pictures.py", "out")
    for name in ("report.png", "profile.png"):
        stored, made = (Image.open(folder / name) for folder in (EXAMPLES / "pictures", Path("out")))
        assert stored.size == made.size
        # Other fonts and rounding move lines by pixels, and a few shades with them.
        a, b = (np.asarray(picture.convert("L").resize((120, 100)), float) for picture in (stored, made))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8


def test_the_pictures_of_the_readme_are_small_and_shown() -> None:
    pictures = sorted((EXAMPLES / "pictures").iterdir())
    assert [path.name for path in pictures] == ["profile.png", "report.png"]
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert all(path.stat().st_size < 200_000 for path in pictures)
    assert all(f"](examples/pictures/{path.name})" in readme for path in pictures)
