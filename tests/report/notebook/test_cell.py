"""The notebook's cell and the one line: small, without script, id or matplotlib."""

import re
import subprocess
import sys

import torch
from torch import nn

from normprobe import Probe
from normprobe.report import notebook_html, one_line
from tests.helpers.report_models import NOTHING, finding, findings_of, record, stack, text_of


def test_one_line():
    tables = record(stack(3))
    text = "<Recording: 10 layers (4 layer_norm, 6 linear), 30 samples, 1 finding>"
    assert one_line(tables, findings_of(finding("norm"))) == text


def test_one_line_of_nothing():
    probe = Probe(nn.LayerNorm(4))
    assert (
        one_line(probe.recording.tables, NOTHING) == "<Recording: 1 layer (1 layer_norm), nothing measured>"
    )


def test_the_cell_tells_what_was_seen():
    tables = record(stack(3, unused=2)).annotate(
        {"name": "<b>Net</b>", "unit": "token", "example_unit": "text"}
    )
    html = notebook_html(tables, findings_of(finding("layers.1.norm"), *[finding("norm")] * 3))
    text = text_of(html)
    assert "Recording of <b>Net</b>: 4 norms, 8 Linear, 2 of 12 not seen; 30 tokens" in text
    assert "● Note: Massive activations at layers.1.norm. |value| reaches 27,347 in feature 3." in text
    assert text.count("Massive activations") == 3
    assert "and 1 more: .findings()" in text
    assert "Keep this feature" not in text
    assert "arXiv" not in text
    assert "Rows: 20 layers, " in text
    assert text.endswith('Full report: .report("report/")')


def test_no_script_no_id_and_scoped_styles():
    html = notebook_html(record(stack(3)), findings_of(finding("norm")))
    assert "<script" not in html
    assert not re.search(r"<[^>]*\s(id|on\w+)=", html)
    css = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    selectors = [
        s.strip() for rule in re.findall(r"([^{}]+)\{", css) for s in rule.split(",") if "@" not in rule
    ]
    assert [s for s in selectors if ".normprobe-recording" not in s] == []
    assert "light-dark(" in css
    assert "prefers-color-scheme" not in css


def test_the_largest_cell_fits():
    norms = nn.Sequential(*[nn.LayerNorm(2) for _ in range(480)])
    long = "x" * 5000
    html = notebook_html(
        record(norms, torch.randn(9, 2)), findings_of(*[finding("3", message=long, title=long)] * 9)
    )
    assert len(html.encode()) <= 40_000
    assert '<path class="np-site-input"' in html
    assert "np-dots" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


def test_the_chart_needs_four_norms():
    assert 'class="np-chart"' not in notebook_html(record(stack(2)), NOTHING)
    html = notebook_html(record(stack(3)), NOTHING)
    chart = re.search(r'<svg class="np-chart".*?</svg>', html, re.DOTALL).group()
    assert len(re.findall(r'class="np-site-(?:input|output)"', chart)) == 4  # two roles, two sites
    places = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", chart)]
    assert all(0 <= y <= 150 for y in places)


def test_nothing_measured():
    probe = Probe(stack(3))
    assert "nothing was measured" in text_of(notebook_html(probe.recording.tables, NOTHING))


def test_neither_imports_matplotlib():
    code = (
        "import sys, torch, normprobe\n"
        "model = torch.nn.Sequential(*[torch.nn.LayerNorm(4) for _ in range(5)])\n"
        "r = normprobe.record(model, [torch.rand(9, 4)])\n"
        "from normprobe.report import terminal_text\n"
        "repr(r), r._repr_html_(), terminal_text(r.tables, r.findings(), width=80, unicode=True)\n"
        "print('matplotlib' in sys.modules or 'seaborn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
