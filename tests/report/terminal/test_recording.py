"""The terminal's text: golden at 80 and 120 columns, in plain encodings, and with gaps."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from normprobe import NoSamplesError, Probe
from normprobe.formatting import text_width
from normprobe.report import terminal_text
from tests.helpers.report_models import NOTHING, Stack, finding, findings_of, record, stack


class Scaled(nn.Module):
    """Two blocks whose numbers are exact powers of two, so that the golden text holds on every machine."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(4), "mlp": nn.Linear(4, 4)}) for _ in range(2)
        )
        self.norm = nn.LayerNorm(4)
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                layer["mlp"].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 1.0, 64.0 if i else 2.0])))
                layer["mlp"].bias.zero_()

    def forward(self, x):
        for layer in self.layers:
            x = layer["mlp"](layer["norm"](x))
        return self.norm(x)


@pytest.fixture(scope="module")
def tables():
    signs = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, -1]])
    meta = {"name": "./scaled", "data": "1 text from texts.txt", "unit": "token", "example_unit": "text"}
    return record(Scaled(), signs[None] * 2.0).annotate(meta)


FINDINGS = findings_of(
    finding(
        "norm",
        severity="warning",
        value=64,
        feature=3,
        written_by="layers.1.mlp",
        layers_affected=2,
        source="arXiv:2402.17762",
    ),
    finding(
        "layers.1.mlp",
        title="Variance grows with depth",
        statistic="last ÷ first median variance",
        value=5242880,
        threshold=30,
        source="arXiv:2502.05795",
    ),
)

AT_80 = """\
Scaled from ./scaled, float32 on cpu, evaluation mode
3 layer_norm, 2 linear: all 5 layers fired
1 text from texts.txt, 3 tokens measured

warning  Massive activations (2 of 3 norms)
         64 in feature 3 at norm, written by layers.1.mlp
         threshold 100; arXiv:2402.17762
note     Variance grows with depth
         5,242,880 at layers.1.mlp
         last ÷ first median variance, threshold 30; arXiv:2502.05795

Layers that stand out                    var in   var out    max |in|   ÷ median
norm                                      1,409         1        86.2      89.6×
layers.1.mlp                                  1     1,409        1.35       1.4×"""

AT_120 = """\
Scaled from ./scaled, float32 on cpu, evaluation mode
3 layer_norm, 2 linear: all 5 layers fired
1 text from texts.txt, 3 tokens measured

warning  Massive activations: 64 in feature 3 at norm, 2 of 3 norms; arXiv:2402.17762
note     Variance grows with depth: 5,242,880 at layers.1.mlp, last ÷ first median variance; arXiv:2502.05795

Layers that stand out                        kind    var in   var out    max |in|   max |out|   ÷ median    token spread
norm                                   layer_norm     1,409         1        86.2        1.73      89.6×           1 → 1
layers.1.mlp                               linear         1     1,409        1.35        86.2       1.4×               –"""  # noqa: E501


def test_golden_80(tables):
    assert terminal_text(tables, FINDINGS, width=80, unicode=True) == AT_80


def test_golden_120(tables):
    assert terminal_text(tables, FINDINGS, width=120, unicode=True) == AT_120


def test_golden_plain(tables):
    plain = AT_80.replace("÷", "/").replace("×", "x").replace("…", "...")
    assert terminal_text(tables, FINDINGS, width=80, unicode=False) == plain
    assert plain.isascii()


@pytest.mark.parametrize(("width", "most"), [(20, 80), (80, 80), (100, 100), (120, 120), (500, 120)])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(width, most, unicode):
    @dataclass
    class Long:
        name: str = "层" * 30 + "norm" * 30

    model = nn.Sequential()
    model.add_module(Long().name, stack(2, unused=12))
    rows = findings_of(
        *[finding(f"{Long().name}.layers.{i}.norm", written_by=f"{Long().name}.norm") for i in (0, 1)]
    )
    lines = terminal_text(record(model), rows, width=width, unicode=unicode).splitlines()
    assert [line for line in lines if text_width(line) > most] == []
    assert any("…" in line or "..." in line for line in lines)


def test_healthy():
    text = terminal_text(record(stack(1)), NOTHING, width=80, unicode=True)
    assert text.splitlines()[-1] == "No findings: nothing worth acting on."
    assert "2 layer_norm, 2 linear: all 4 layers fired" in text


def test_gaps_come_before_findings():
    text = terminal_text(record(stack(1, unused=10)), NOTHING, width=80, unicode=True)
    lines = text.splitlines()
    start = lines.index("4 of 14 layers fired; 10 did not (normprobe layers MODEL says why):")
    assert lines[start + 1 : start + 10] == [
        *[f"  unused.{i}" for i in range(8)],
        "  and 2 more in ledger.csv",
    ]
    assert start < lines.index("No findings: nothing worth acting on.")


def test_at_most_five_findings():
    rows = [finding("layers.0.norm", title=f"Finding {i}") for i in range(12)]
    text = terminal_text(record(stack(1)), findings_of(*rows), width=80, unicode=True)
    assert "Finding 4" in text
    assert "Finding 5" not in text
    assert "\nand 7 more in findings.csv\n" in text


def test_at_most_eight_layers():
    model = stack(12)
    rows = [finding(f"layers.{i}.norm", title="T") for i in range(12)]
    table = terminal_text(record(model), findings_of(*rows), width=80, unicode=True).split(
        "Layers that stand out"
    )[1]
    assert len(table.splitlines()) == 9


def test_layers_that_say_the_same_are_listed_once():
    class Carry(Stack):
        def forward(self, x):
            outlier = torch.zeros(16)
            outlier[3] = 1000
            return super().forward(x + outlier)

    torch.manual_seed(0)
    text = terminal_text(record(Carry(6)), NOTHING, width=80, unicode=True)
    table = text.split("Layers that stand out")[1]
    assert len([line for line in table.splitlines() if ".norm " in line]) == 1


def test_control_characters_do_not_reach_the_terminal(tables):
    text = terminal_text(tables.annotate({"name": "a\x1b[31mb\nc"}), NOTHING, width=80, unicode=True)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "Scaled from a [31mb c, float32 on cpu, evaluation mode"


def test_nonfinite_is_told():
    model = stack(1)
    with torch.no_grad():
        model.layers[0].up.weight[0] = float("inf")
    text = terminal_text(record(model), NOTHING, width=80, unicode=True)
    assert "NaN or Inf first in the output of layers.0.up (30 values)" in text


def test_one_sample_is_told():
    text = terminal_text(record(stack(1), torch.randn(1, 16)), NOTHING, width=80, unicode=True)
    assert "1 sample: variances across samples are undefined" in text


def test_nothing_measured():
    probe = Probe(stack(1))
    with pytest.raises(NoSamplesError, match="nothing was measured"):
        terminal_text(probe.recording.tables, NOTHING, width=80, unicode=True)
