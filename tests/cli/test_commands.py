"""The command line: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import normprobe
from normprobe.cli import main, printing
from tests.helpers import checkpoints

PROGRAM = [sys.executable, "-c", "from normprobe.cli import main; main()"]
NETS = """
import time
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()

class Gap(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.spare = nn.LayerNorm(3)

    def forward(self, x):
        return self.used(x)

class Slow(Gap):
    def forward(self, x):
        open("running", "w").close()
        time.sleep(1.5)
        return self.used(x)

def batches():
    yield torch.ones(2, 4, dtype=torch.float64)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model and its data."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    np.save("x.npy", np.random.default_rng(0).normal(size=(100, 4)))
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status, result.output
    return result


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from normprobe.cli import main\n"
        "for words in (['--help'], ['report', '--help'], ['--version']):\n"
        "    main(words, standalone_mode=False)\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'seaborn', 'transformers', 'numpy', 'pyarrow', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MODEL is a Hugging Face folder" in done.stdout
    assert f"version {normprobe.__version__}" in done.stdout


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "normprobe", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"normprobe, version {normprobe.__version__}\n"


class TestExport:
    def test_tables_are_those_of_the_library(self, folder: Path) -> None:
        done = run("export", "nets.py:build", "--data", "x.npy", "--out", "out", "--batch-size", "7")
        import torch

        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
        ).double()
        x = torch.tensor(np.load("x.npy"))
        recording = normprobe.record(module, [x])
        read = pd.read_csv("out/layers.csv", keep_default_na=False, na_values=[""])
        for column in ("mean", "variance", "within_sample_variance"):
            np.testing.assert_allclose(read[column], recording.layers[column], rtol=1e-9, atol=1e-12)
        assert sorted(path.name for path in Path("out").iterdir()) == [
            "features.csv", "findings.csv", "layers.csv", "ledger.csv", "outliers.csv", "samples.csv",
        ]  # fmt: skip
        assert re.search(r"^Wrote   out/layers.csv  \(\d+\.\d kB\)$", done.stdout, re.MULTILINE)
        assert done.stderr == ""

    def test_a_file_for_a_quantizer(self, folder: Path) -> None:
        import torch

        torch.manual_seed(0)
        done = run("export", "nets.py:Gap", "--data", "x.npy", "--out", "s.pt", "--format", "act-scales")
        scales = torch.load("s.pt", weights_only=True)
        assert scales["used"].tolist() == np.abs(np.load("x.npy").astype(np.float32)).max(0).tolist()
        assert re.fullmatch(
            r"Wrote   s.pt  \(\d+\.\d kB\)\nact-scales of 1 of 1 Linear layers\n", done.stdout
        )
        quiet = run(
            "export", "nets.py:Gap", "--data", "x.npy", "--out", "s.pt", "--format", "act-scales", "--quiet"
        )
        assert quiet.output == ""

    def test_an_importance_matrix_of_a_checkpoint(self, folder: Path) -> None:
        import gguf

        checkpoints.bert(folder / "bert")
        run(
            "export",
            "./bert",
            "--limit",
            "8",
            "--save",
            "run.normprobe",
            "--out",
            "a.gguf",
            "--format",
            "imatrix",
        )
        done = run("export", "run.normprobe", "--out", "b.gguf", "--format", "imatrix")
        assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()
        assert (
            "1 of 13 Linear layers had no name in a GGUF file: not in the file (pooler.dense)" in done.stdout
        )
        reader = gguf.GGUFReader("a.gguf")
        assert len(reader.tensors) == 2 * 12
        named = bytes(reader.fields["imatrix.datasets"].parts[-1]).decode()
        assert named == normprobe.load("run.normprobe").meta["data"]

    def test_a_quantizers_file_that_cannot_be(self, folder: Path) -> None:
        Path("out").mkdir()
        start = ("export", "nets.py:build", "--data", "x.npy", "--out")
        done = run(*start, "out", "--format", "awq", status=1)
        assert done.stderr == "Error: --out out is a folder; the name of a file was needed\n"
        done = run(*start, "x.gguf", "--format", "imatrix", status=1)
        assert "the recording is of Sequential, whose weights normprobe has no GGUF names for" in done.stderr
        assert not Path("x.gguf").exists()

    def test_gguf_is_missed_before_anything_runs(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        done = run("export", "none.py:build", "--out", "x.gguf", "--format", "imatrix-dat", status=1)
        assert done.stderr == "Error: --format imatrix-dat needs the names that gguf has: pip install gguf\n"

    def test_parquet(self, folder: Path) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "out", "--format", "parquet")
        table = pd.read_parquet("out/layers.parquet")
        assert set(table["layer"]) == {"0", "1", "2"}
        assert (table["n_samples"] == 100).all()

    @pytest.mark.parametrize(
        ("options", "layers", "samples"),
        [
            (["--layers", "0", "--layers", "2"], {"0", "2"}, 100),
            (["--kinds", "layer_norm"], {"1"}, 100),
            (["--kinds", "layer_norm,linear"], {"0", "1", "2"}, 100),
            (["--limit", "12"], {"0", "1", "2"}, 12),
            (["--samples", "5"], {"0", "1", "2"}, 5),
            (["--samples", "all"], {"0", "1", "2"}, 100),
        ],
    )
    def test_options(self, folder: Path, options: list[str], layers: set[str], samples: int) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "out", *options)
        table = pd.read_csv("out/samples.csv", dtype={"layer": str})
        assert set(table["layer"]) == layers
        assert table.groupby(["layer", "site"]).size().eq(samples).all()


class TestReport:
    def test_a_checkpoint_with_the_shipped_texts(self, folder: Path) -> None:
        checkpoints.bert(folder / "bert")
        done = run("report", "./bert", "--limit", "20", "--save", "run.normprobe")
        assert "BertModel from ./bert, float32 on cpu, evaluation mode" in done.stdout
        assert "20 texts from the set that ships with normprobe" in " ".join(done.stdout.split())
        assert re.search(
            r"^Report   report/report.html  \([\d.]+ MB in all, (most in|the largest) [\w.]+; "
            r"4 CSV files, 2 Parquet files and \d+ figures beside it\)$",
            done.stdout,
            re.MULTILINE,
        )
        assert re.search(r"^Saved    run.normprobe  \(.*\)$", done.stdout, re.MULTILINE)
        assert Path("report/report.html").stat().st_size > 10_000
        recording = normprobe.load("run.normprobe")
        assert recording.meta["name"] == "./bert"
        assert (recording.meta["unit"], recording.meta["example_unit"]) == ("token", "text")
        assert recording.meta["seconds"] > 0
        assert recording.labels.empty, "texts are saved only on request"

    def test_notes_go_to_stderr_and_into_the_recording(self, folder: Path) -> None:
        checkpoints.bert(folder / "bert")
        Path("long.txt").write_text("cat " * 90)
        done = run("export", "./bert", "--data", "long.txt", "--out", "out", "--save", "run.normprobe")
        note = "1 text truncated to 40 tokens, the model's maximum"
        assert done.stderr == f"Note: {note}\n"
        assert note in normprobe.load("run.normprobe").meta["warnings"]

    def test_a_saved_recording_gives_the_same_as_the_model(self, folder: Path) -> None:
        first = run("report", "nets.py:build", "--data", "x.npy", "--save", "run.normprobe", "--out", "a")
        again = run("report", "run.normprobe", "--out", "b")
        assert again.stdout == first.stdout.replace("a/report", "b/report").partition("Saved")[0]
        summary = str(normprobe.load("run.normprobe").summary())
        assert again.stdout.partition("\n\nReport ")[0] == summary, "recording.summary() is the same text"
        for name in (
            "layers.csv",
            "features.parquet",
            "samples.parquet",
            "ledger.csv",
            "findings.csv",
            "outliers.csv",
        ):
            assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
        run("export", "run.normprobe", "--out", "c")
        assert (folder / "a" / "layers.csv").read_bytes() == (folder / "c" / "layers.csv").read_bytes()

    def test_options_of_a_measurement_do_not_go_with_a_recording(self, folder: Path) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "a", "--save", "run.normprobe")
        done = run("report", "run.normprobe", "--data", "x.npy", "--limit", "3", status=2)
        assert "run.normprobe is a saved recording: --data, --limit cannot change it" in done.stderr

    def test_fail_on(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "a", "--save", "run.normprobe")
        found = pd.DataFrame({"severity": ["warning", "info"]})
        monkeypatch.setattr(normprobe.Recording, "findings", lambda self: found)
        monkeypatch.setattr(normprobe.Recording, "to_csv", lambda self, out: [])
        for severity, status in (("info", 3), ("warning", 3), ("error", 0)):
            done = run("export", "run.normprobe", "--out", "b", "--fail-on", severity, status=status)
            assert ("--fail-on" in done.stderr) == bool(status)
        assert "Failed: 2 findings of severity info or worse (--fail-on info)" in run(
            "export", "run.normprobe", "--out", "b", "--fail-on", "info", status=3
        ).stderr  # fmt: skip


class TestLayers:
    def test_the_ledger_after_one_forward(self, folder: Path) -> None:
        done = run("layers", "nets.py:Gap", "--data", "x.npy")
        lines = done.stdout.splitlines()
        assert lines[0] == "1 of 2 layers fired, 1 never fired"
        assert lines[2].split() == ["layer", "kind", "features", "status", "reason"]
        assert lines[3].split()[:4] == ["used", "linear", "4", "fired"]
        assert lines[4].split()[:5] == ["spare", "layer_norm", "3", "never", "fired"]

    def test_a_terminal_shortens_names_and_wraps_reasons(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ledger = pd.DataFrame(
            {
                "layer": ["encoder." * 12 + "query", ""],
                "type": ["Linear", "LayerNorm"],
                "kind": ["linear", "layer_norm"],
                "n_features": pd.array([1536, None], dtype="Int64"),
                "status": ["fired", "never fired"],
                "via": ["functional", ""],
                "reason": ["", "its module was never called, though the one that holds it was called twice"],
            }
        )
        printing.print_ledger(ledger)
        plain = capsys.readouterr().out.splitlines()
        name = "encoder." * 12 + "query"
        assert plain[3].split() == [name, "linear", "1,536", "fired", "via", "functional"]
        assert plain[4].startswith("(LayerNorm)")
        assert plain[4].endswith("though the one that holds it was called twice")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "80")
        printing.print_ledger(ledger)
        shown = capsys.readouterr().out.splitlines()
        assert all(len(line) <= 80 for line in shown)
        assert shown[3].startswith("…") or shown[3].startswith("...")
        assert "encoder.query" in shown[3]
        assert " ".join(" ".join(shown[4:]).split()).endswith(ledger["reason"][1])

    def test_one_batch_is_enough(self, folder: Path) -> None:
        started = time.perf_counter()
        run("layers", "nets.py:Slow", "--data", "x.npy", "--batch-size", "1")
        assert time.perf_counter() - started < 60, "100 batches take 150 seconds"


class TestMerge:
    def test_parts_add_up_to_the_whole(self, folder: Path) -> None:
        x = np.load("x.npy")
        for name, rows in (("a", x[:30]), ("b", x[30:]), ("whole", x)):
            np.save(f"{name}.npy", rows)
            kept = ("--save", f"{name}.normprobe")
            run("export", "nets.py:build", "--data", f"{name}.npy", "--out", name, *kept)
        done = run("merge", "a.normprobe", "b.normprobe", "--out", "both.normprobe")
        assert done.stdout.startswith("Merged   both.normprobe  (")
        both, whole = normprobe.load("both.normprobe").layers, normprobe.load("whole.normprobe").layers
        np.testing.assert_allclose(both["variance"], whole["variance"], rtol=1e-12)
        assert (both["n_samples"] == 100).all()

    def test_one_part_twice_and_one_alone(self, folder: Path) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "a", "--save", "a.normprobe")
        Path("c.normprobe").write_bytes(Path("a.normprobe").read_bytes())
        error = run("merge", "a.normprobe", "c.normprobe", "--out", "b.normprobe", status=1).stderr
        assert error.startswith("Error: a.normprobe and c.normprobe hold the same part, so its data would")
        assert not Path("b.normprobe").exists()
        assert "two recordings or more" in run("merge", "a.normprobe", "--out", "b", status=2).stderr


class TestWindows:
    @pytest.fixture
    def run_folder(self, folder: Path) -> str:
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
        with normprobe.Probe(model, window=2, out="run.windows") as probe, torch.no_grad():
            for step in range(5):
                model(torch.randn(3, 4))
                probe.step(step)
        return "run.windows"

    def test_a_folder_of_windows_is_a_recording(self, run_folder: str) -> None:
        assert "all 2 layers fired" in run("report", run_folder, "--out", "report").stdout
        assert Path("report/report.html").exists()
        assert run("merge", run_folder, "--out", "run.normprobe").stdout.startswith("Merged   run.normprobe")
        assert normprobe.load("run.normprobe").layers["calls"].tolist() == [5] * 4

    def test_windows_merge_and_none_twice(self, run_folder: str) -> None:
        first, second, _ = sorted(map(str, Path(run_folder).iterdir()))
        run("merge", first, second, "--out", "both.normprobe", "--force")
        assert normprobe.load("both.normprobe").layers["calls"].tolist() == [4] * 4
        error = run("merge", "both.normprobe", second, "--out", "c.normprobe", status=1).stderr
        assert f"both.normprobe and {second} hold the same part" in error


class TestLayersOfARecording:
    def test_globs_and_kinds_choose_its_lines(self, folder: Path) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "a", "--save", "a.normprobe")
        every = run("layers", "a.normprobe").stdout.splitlines()
        names = [line.split()[0] for line in every[3:]]
        assert len(names) > 1
        one = run("layers", "a.normprobe", "--layers", names[0]).stdout.splitlines()
        assert one[0] == "1 of 1 layers fired"
        assert [line.split()[0] for line in one[3:]] == [names[0]]
        linear = run("layers", "a.normprobe", "--kinds", "linear").stdout.splitlines()[3:]
        assert {line.split()[1] for line in linear} == {"linear"}
        assert len(linear) < len(names)

    def test_what_matches_none_or_cannot_change_it_is_refused(self, folder: Path) -> None:
        run("export", "nets.py:build", "--data", "x.npy", "--out", "a", "--save", "a.normprobe")
        assert (
            "--layers absent* matches none of"
            in run("layers", "a.normprobe", "--layers", "absent*", status=1).stderr
        )
        assert "--limit cannot change it" in run("layers", "a.normprobe", "--limit", "3", status=2).stderr


def test_only_a_command_with_a_baseline_speaks_of_one() -> None:
    assert "with a baseline" in " ".join(run("report", "--help").stdout.split())
    assert "baseline" not in run("export", "--help").stdout


def spawn(folder: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    """Run a command with stderr on a terminal; return stdout and what the terminal got."""
    main_end, terminal = pty.openpty()
    command = [*PROGRAM, *arguments]
    settings = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
    settings.pop("NO_COLOR", None) if "NO_COLOR" not in environment else None
    with subprocess.Popen(
        command, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=terminal, text=True
    ) as process:
        os.close(terminal)
        seen = b""
        while True:
            try:
                part = os.read(main_end, 4096)
            except OSError:
                break
            if not part:
                break
            seen += part
        out = process.stdout.read() if process.stdout else ""
    os.close(main_end)
    assert process.returncode == 0, (out, seen)
    return out, seen.decode()


class TestTerminal:
    def test_a_bar_for_what_takes_over_two_seconds(self, folder: Path) -> None:
        arguments = ("export", "nets.py:Slow", "--data", "x.npy", "--batch-size", "34", "--out", "out")
        out, terminal = spawn(folder, *arguments)
        assert "Measuring" in terminal
        assert "100 rows" in terminal
        assert "\x1b" not in out
        assert "Wrote" in out
        _, plain = spawn(folder, *arguments, NO_COLOR="1")
        assert plain == ""

    def test_nothing_but_results_elsewhere(self, folder: Path) -> None:
        done = subprocess.run(
            [*PROGRAM, "layers", "nets.py:Slow", "--data", "x.npy"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.stderr == ""
        assert done.stdout.isascii()

    def test_ctrl_c_ends_in_one_line(self, folder: Path) -> None:
        with subprocess.Popen(
            [*PROGRAM, "report", "nets.py:Slow", "--data", "x.npy", "--batch-size", "1", "--out", "out"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while not (folder / "running").exists():
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "Stopped.\n")
        assert not (folder / "out").exists()


def test_json_is_what_the_folder_says(folder: Path) -> None:
    spec = checkpoints.gpt2(folder / "gpt2")
    named = json.loads((folder / "gpt2" / "config.json").read_text())["architectures"]
    done = run("layers", spec, "--limit", "2")
    assert named == ["GPT2LMHeadModel"]
    assert "lm_head" in done.stdout
    assert "transformer.h.0.attn.c_attn" in done.stdout


def test_explain_prints_a_page_or_the_list() -> None:
    from click.testing import CliRunner

    from normprobe.cli import main
    from normprobe.findings import CHECKS

    listed = CliRunner().invoke(main, ["explain"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [check.name for check in CHECKS]
    page = CliRunner().invoke(main, ["explain", "nonfinite"])
    assert page.exit_code == 0
    assert "When it is wrong" in page.stdout
    assert CliRunner().invoke(main, ["explain", "NaN or Inf"]).stdout == page.stdout
    several = CliRunner().invoke(main, ["explain", "stale"])
    assert several.exit_code == 0
    assert [line.split()[0] for line in several.stdout.splitlines()] == [
        "stale_running_statistics",
        "stale_channels",
    ]
    unknown = CliRunner().invoke(main, ["explain", "nonfinites"])
    assert unknown.exit_code == 1
    assert "did you mean nonfinite" in unknown.stderr


def test_large_csv_points_to_parquet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from normprobe.cli import commands
    from tests.helpers.recordings import recorded as small

    recording = small()
    assert commands._export_as(recording, "csv", tmp_path)[1] == ""
    monkeypatch.setattr(commands, "_LARGE_CSV", 1.0)
    assert "--format parquet" in commands._export_as(recording, "csv", tmp_path)[1]
    assert commands._export_as(recording, "parquet", tmp_path)[1] == ""
