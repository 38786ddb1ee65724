"""The terminal's text: golden at 80 and 120 columns, in plain encodings, and with gaps."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from normprobe import NoSamplesError, Probe, Recording
from normprobe.errors import NormprobeWarning
from normprobe.formatting import text_width
from normprobe.report import terminal_text
from tests.helpers.golden import golden
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

GOLDEN = Path(__file__).parent / "golden" / "recording.txt"
CHANGED = FINDINGS.assign(change=["new", "known"])


@pytest.mark.parametrize("width", [80, 120, None])
def test_golden(tables, width):
    golden(GOLDEN, f"at {width} columns", terminal_text(tables, FINDINGS, width=width, unicode=True))


def test_golden_plain(tables):
    text = terminal_text(tables, FINDINGS, width=80, unicode=True)
    plain = terminal_text(tables, FINDINGS, width=80, unicode=False)
    assert plain == text.replace("÷", "/").replace("×", "x").replace("…", "...")
    assert plain.isascii()


def test_golden_against_a_baseline(tables):
    gone = findings_of(finding("layers.0.norm", title="Dead features")).assign(change="gone")
    rows = pd.concat([CHANGED, gone], ignore_index=True)
    text = terminal_text(tables, rows, width=80, unicode=True, baseline="good.normprobe")
    golden(GOLDEN, "against a baseline", text)


def long_names():
    @dataclass
    class Long:
        name: str = "层" * 30 + "norm" * 30

    model = nn.Sequential()
    model.add_module(Long().name, stack(2, unused=12))
    rows = findings_of(
        *[finding(f"{Long().name}.layers.{i}.norm", written_by=f"{Long().name}.norm") for i in (0, 1)]
    )
    return record(model), rows


@pytest.mark.parametrize(("width", "most"), [(20, 80), (80, 80), (100, 100), (120, 120), (200, 200)])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(width, most, unicode):
    recorded, rows = long_names()
    lines = terminal_text(recorded, rows, width=width, unicode=unicode).splitlines()
    # A name in a sentence stays whole, to be copied.
    assert [line for line in lines if text_width(line) > most and "norm." not in line] == []
    assert any("…" in line or "..." in line for line in lines)


@pytest.mark.parametrize("unicode", [True, False])
def test_nothing_is_cut_or_wrapped_where_there_is_no_terminal(unicode):
    recorded, rows = long_names()
    lines = terminal_text(recorded, rows, width=None, unicode=unicode).splitlines()
    assert not any("…" in line for line in lines)
    if unicode:
        assert not any("..." in line for line in lines)
        for name in rows["layer"]:
            assert sum(name in line for line in lines) == 2, "its finding, and its row of the table"
    assert all(" ".join(advice.split()) in "\n".join(lines) for advice in rows["advice"])


def test_prose_is_no_wider_than_120_columns_on_a_wide_terminal(tables):
    rows = findings_of(finding("norm", message="word " * 80))
    lines = terminal_text(tables, rows, width=300, unicode=True).splitlines()
    assert 110 < max(text_width(line) for line in lines) <= 120


def test_every_finding_has_sentence_advice_and_the_name_that_explain_takes(tables):
    lines = terminal_text(tables, FINDINGS, width=None, unicode=True).splitlines()
    for row in FINDINGS.itertuples():
        at = next(i for i, line in enumerate(lines) if row.title in line)
        assert row.message in lines[at + 1]
        assert lines[at + 2].strip() == f"-> {row.advice}"
        assert lines[at + 3].strip() == f"normprobe explain {row.check}"
        assert row.source not in "\n".join(lines)


def test_healthy():
    text = terminal_text(record(stack(1)), NOTHING, width=80, unicode=True)
    assert text.splitlines()[-1] == "No findings."
    assert "2 layer_norm, 2 linear: all 4 layers fired" in text


def test_gaps_come_before_findings():
    text = terminal_text(record(stack(1, unused=10)), NOTHING, width=80, unicode=True)
    lines = text.splitlines()
    start = lines.index("4 of 14 layers fired; 10 did not (normprobe layers MODEL says why):")
    assert lines[start + 1 : start + 10] == [
        *[f"  unused.{i}" for i in range(8)],
        "  and 2 more in the ledger",
    ]
    assert start < lines.index("No findings.")


def test_at_most_twelve_findings():
    rows = [finding("layers.0.norm", title=f"Finding {i}") for i in range(19)]
    text = terminal_text(record(stack(1)), findings_of(*rows), width=80, unicode=True)
    assert "Finding 11" in text
    assert "Finding 12" not in text
    assert "\nand 7 more findings\n" in text


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


def summary(tables):
    return Recording(tables).summary()


def test_a_summary_prints_as_the_terminals_text(tables, capsys):
    print(summary(tables))
    expected = terminal_text(tables, Recording(tables).findings(), width=None, unicode=True)
    assert capsys.readouterr().out == f"{expected}\n"
    assert repr(summary(tables)) == str(summary(tables)), "an interactive session shows the text"


def test_a_summary_fits_the_terminal_it_is_printed_on(tables, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    expected = terminal_text(tables, Recording(tables).findings(), width=100, unicode=True)
    assert str(summary(tables)) == expected
    assert summary(tables).text(width=80) == terminal_text(
        tables, Recording(tables).findings(), width=80, unicode=True
    )


def test_a_summary_in_a_notebook_is_escaped_and_wraps(tables):
    html = summary(tables.annotate({"name": "<b>"}))._repr_html_()
    assert "Scaled from &lt;b&gt;" in html
    assert "pre-wrap" in html


def test_a_summary_of_nothing_is_refused():
    probe = Probe(stack(1))
    with pytest.warns(NormprobeWarning, match="nothing was measured"), probe:
        pass
    with pytest.raises(NoSamplesError, match="nothing was measured"):
        probe.recording.summary()


def test_a_summary_shows_the_findings_of_the_checks_asked_for():
    model = stack(1)
    with torch.no_grad():
        model.layers[0].up.weight[0] = float("inf")
    recording = Recording(record(model))
    assert "explain nonfinite" in str(recording.summary())
    assert "No findings of this check." in str(recording.summary(["dead_features"]))
    two = ["dead_features", "constant_features"]
    assert "No findings: none of 2 checks found anything." in str(recording.summary(two))
