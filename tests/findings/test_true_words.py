"""What a finding says is true of the case at hand, and one cause is one thing to mend."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe.report.finding_words import notes, verdict_words


def mlp(*, norms: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(16, 16), *([nn.LayerNorm(16)] if norms else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 4)).eval()


def data() -> torch.Tensor:
    return torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


def found(model: nn.Module, x: torch.Tensor) -> pd.DataFrame:
    return normprobe.record(model, [x]).findings().set_index("check", drop=False)


def test_a_norm_whose_own_weight_is_0_is_told_so() -> None:
    model = mlp(norms=True)
    nn.init.zeros_(model[4].weight)
    finding = found(model, data()).loc["collapsed_samples"]
    assert (finding["layer"], finding["site"]) == ("4", "output")
    assert finding["message"] == "The output is the same for every sample, from this layer on."
    assert finding["advice"].startswith("This norm's own weight is 0 in every feature")


def test_small_inputs_are_outweighed_by_a_bias() -> None:
    finding = found(mlp(), 1e-5 * data()).loc["collapsed_samples"]
    assert (finding["layer"], finding["site"]) == ("0", "output")
    assert "bias outweighs what it makes of its input, whose RMS is 1.01 × 10⁻⁵" in finding["advice"]
    assert "weights" not in finding["advice"]


def test_weights_of_0_are_told_as_such() -> None:
    model = mlp()
    nn.init.zeros_(model[4].weight)
    finding = found(model, data()).loc["collapsed_samples"]
    assert (finding["layer"], finding["site"]) == ("4", "output")
    assert finding["advice"].startswith("This layer's own weights are 0 or nearly so")


def test_data_that_are_all_the_same_are_no_layers_fault() -> None:
    finding = found(mlp(), data()[:1].repeat(64, 1)).loc["collapsed_samples"]
    assert (finding["layer"], finding["site"]) == ("0", "input")
    assert "data" in finding["advice"]


def test_a_wild_sample_in_a_random_model_is_one_finding_and_no_property_of_transformers() -> None:
    x = data()
    x[3] *= 1e4
    table = found(mlp(), x)
    assert table.index.tolist() == ["outlier_sample"]
    assert not table["advice"].str.contains("transformer").any()
    # Without it the same values are massive, as in a trained model.
    x = data()
    model = mlp(norms=True)
    hook = model[3].register_forward_hook(
        lambda module, args, out: out.index_put((torch.tensor([3]), torch.tensor([5])), torch.tensor(9000.0))
    )
    assert "massive_activations" in found(model, x).index
    hook.remove()


def test_all_samples_are_the_same_since_all_features_are_dead() -> None:
    model = mlp()
    with torch.no_grad():
        model[4].bias -= 5
    table = found(model, data())
    assert table.index.tolist() == ["dead_features", "collapsed_samples"]
    assert table["severity"].tolist() == ["warning", "warning"]
    assert table["follows_from"].tolist() == ["", "dead_features"]
    effect = table.loc["collapsed_samples"]
    assert effect["message"].endswith('Follows from "Dead features" at layer 6.')
    assert effect["advice"] == "Mend that first."
    assert verdict_words(table) == "1 warning; 1 more follows from that"
    assert table.loc["dead_features", "message"].endswith("; layer 4 never writes a positive value there.")


def test_an_overflow_follows_from_what_multiplies_by_too_much() -> None:
    model = mlp()
    with torch.no_grad():
        model[4].weight *= 1e6
    table = found(model, data())
    assert table.index.tolist() == ["variance_explodes", "fp16_overflow"]
    assert table["follows_from"].tolist() == ["", "variance_explodes"]


def test_an_overflow_of_a_wild_sample_follows_from_it() -> None:
    x = data()
    x[3] *= 1e7
    table = found(mlp(), x)
    assert table.loc["fp16_overflow", "follows_from"] == "outlier_sample"


def test_what_lies_before_a_cause_does_not_follow_from_it() -> None:
    model = mlp()
    x = data()
    with torch.no_grad():
        model[8].weight *= 1e6
    table = found(model, 1e6 * x)
    assert table.loc["fp16_overflow", "layer"] == "0"
    assert table.loc["fp16_overflow", "follows_from"] == ""
    # A check that is run alone finds what it finds.
    model = mlp()
    with torch.no_grad():
        model[4].bias -= 5
    alone = normprobe.record(model, [x]).findings(["collapsed_samples"]).iloc[0]
    assert alone["follows_from"] == ""
    assert "Follows" not in alone["message"]


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["check", "severity", "follows_from"]).astype("string")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "No faults found"),
        ([("outlier_features", "info", "")], "No faults. 1 note that matters if you quantize"),
        (
            [
                ("massive_activations", "info", ""),
                ("outlier_features", "info", ""),
                ("outlier_norm_weight", "info", ""),
            ],
            "No faults. 3 notes that matter if you quantize",
        ),
        ([("stale_running_statistics", "info", "")], "No faults. 1 note"),
        (
            [("outlier_features", "info", ""), ("constant_features", "info", "")],
            "No faults. 2 notes, 1 of which matters if you quantize",
        ),
        ([("dead_features", "warning", ""), ("outlier_features", "info", "")], "1 warning and 1 note"),
        (
            [("nonfinite", "error", "x"), ("x", "warning", ""), ("y", "warning", ""), ("z", "info", "x")],
            "2 warnings; 2 more follow from that",
        ),
        (
            [("nonfinite", "error", ""), ("x", "warning", ""), ("y", "warning", ""), ("own", "info", "")],
            "1 error, 2 warnings and 1 note",
        ),
    ],
)
def test_the_verdict_says_whether_there_is_a_fault_and_when_notes_matter(
    rows: list[tuple[str, str, str]], words: str
) -> None:
    assert verdict_words(table(*rows)) == words


def test_notes_of_checks_of_ones_own_are_counted() -> None:
    assert notes(table(("own", "info", ""), ("outlier_features", "info", ""))) == (
        "2 notes, 1 of which matters if you quantize"
    )


def test_page_terminal_and_notebook_say_the_same_verdict(tmp_path: Path) -> None:
    model = mlp()
    with torch.no_grad():
        model[4].bias -= 5
    recording = normprobe.record(model, [data()])
    page = recording.report(tmp_path).read_text("utf-8")
    assert "<strong>1 warning</strong>; 1 more follows from that: dead features at" in page
    assert "<p>1 warning; 1 more follows from that.</p>" in recording._repr_html_()
    torch.manual_seed(0)
    healthy = normprobe.record(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)), [data()])
    assert "No faults found." in healthy._repr_html_()
