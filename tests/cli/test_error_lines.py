"""Every wrong input is answered in one line on stderr, with exit status 1 and nothing on stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import normprobe
from normprobe.cli import main
from tests.helpers import checkpoints

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(x)

class Memory(Net):
    def forward(self, x):
        self.fc(x)
        raise torch.OutOfMemoryError("CUDA out of memory.\\nTried to allocate 20.00 GiB.")

class Huge(Net):
    def forward(self, x):
        return self.fc(x) + torch.empty(2 ** 60)

class Raising(Net):
    def forward(self, x):
        raise ZeroDivisionError("of the user's\\nown")

class Bare(nn.Module):
    def forward(self, x):
        return x

def factory():
    raise LookupError("no weights on this machine")

def batches():
    raise FileNotFoundError("data/train")
    yield
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    checkpoints.bert(root / "bert")
    checkpoints.vit(root / "vit")
    return root


@pytest.fixture
def folder(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with intact models and data, to work in and to damage."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("texts.txt").write_text("the cat\na dog\n")
    np.save("x.npy", np.ones((6, 4)))
    return tmp_path


def refusal(*arguments: str) -> str:
    """The one line that a command prints, without its ``Error: ``."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert "Traceback" not in done.stderr
    assert "defect of normprobe" not in done.stderr
    return done.stderr.removeprefix("Error: ").strip()


def edit_config(changes: Callable[[dict[str, object]], object]) -> None:
    config = json.loads(Path("bert/config.json").read_text())
    changes(config)
    Path("bert/config.json").write_text(json.dumps(config))


class TestModel:
    def test_missing_folder(self, folder: Path) -> None:
        words = refusal("report", "./none")
        assert words.startswith("./none does not exist; MODEL is a Hugging Face folder, a hub id")

    def test_no_weights(self, folder: Path) -> None:
        Path("bert/model.safetensors").unlink()
        assert refusal("report", "./bert") == (
            "./bert has a config.json but no weights (*.safetensors or pytorch_model*.bin)"
        )

    def test_damaged_weights(self, folder: Path) -> None:
        file = Path("bert/model.safetensors")
        file.write_bytes(file.read_bytes()[:-100])
        words = refusal("layers", "./bert")
        assert words.startswith("./bert cannot be loaded as BertModel: its weights are damaged or cut off")
        assert words.endswith("fetch them again")

    def test_config_without_architecture(self, folder: Path) -> None:
        edit_config(lambda config: (config.pop("architectures"), config.pop("model_type")))
        assert refusal("report", "./bert").startswith("config.json of ./bert names no architecture")

    def test_a_factory_that_raises(self, folder: Path) -> None:
        assert refusal("layers", "nets.py:factory", "--data", "x.npy") == (
            "nets.py:factory raised LookupError: no weights on this machine"
        )

    def test_a_forward_that_raises(self, folder: Path) -> None:
        assert refusal("layers", "nets.py:Raising", "--data", "x.npy") == (
            "the forward of Raising raised ZeroDivisionError: of the user's own; "
            "it was given float32 of shape (6, 4); do the data fit the model?"
        )

    @pytest.mark.parametrize("name", ["Memory", "Huge"])
    def test_out_of_memory(self, folder: Path, name: str) -> None:
        words = refusal("layers", f"nets.py:{name}", "--data", "x.npy")
        assert words.startswith(
            "out of memory on a batch of float32 of shape (6, 4); try a smaller --batch-size"
        )

    def test_nothing_to_probe(self, folder: Path) -> None:
        assert "Linear or norm" in refusal("layers", "nets.py:Bare", "--data", "x.npy")

    def test_unknown_layer_pattern(self, folder: Path) -> None:
        words = refusal("report", "./bert", "--layers", "encoder.layr.*")
        assert "encoder.layr.*" in words
        assert "encoder.layer.0" in words, "it names what is close"


class TestData:
    def test_missing_data_before_the_model_is_loaded(self, folder: Path) -> None:
        assert refusal("report", "nets.py:factory", "--data", "none.txt").startswith(
            "--data none.txt does not exist; give .txt"
        )

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("e.txt", b"", "e.txt is empty"),
            ("e.jsonl", b'{"text": "cat"}\n{"text"\n', "e.jsonl, line 2 is not JSON"),
            ("e.csv", b"id,body\n1,cat\n2,dog,3\n", "which column holds the text? it has id, body"),
            ("e.txt", b"caf\xe9\n", "e.txt is not UTF-8: byte 0xe9"),
            ("e.npy", b"\x93NUMPY\x01\x00v\x00{", "e.npy is cut off or damaged"),
            ("e.pkl", b"cos\nsystem\n", "e.pkl is a pickle file"),
            ("e.docx", b"x", "e.docx has the ending '.docx', which is not read"),
        ],
    )
    def test_files(self, folder: Path, name: str, content: bytes, words: str) -> None:
        Path(name).write_bytes(content)
        assert words in refusal("report", "./bert", "--data", name)

    def test_wrong_column(self, folder: Path) -> None:
        Path("t.csv").write_text("id,body\n1,cat\n")
        assert refusal("report", "./bert", "--data", "t.csv", "--column", "text") == (
            "t.csv has no column 'text'; it has id, body"
        )

    def test_pickled_array(self, folder: Path) -> None:
        np.save("o.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
        assert refusal("report", "nets.py:Net", "--data", "o.npy").startswith("o.npy holds pickled objects")

    def test_text_for_an_image_model(self, folder: Path) -> None:
        assert refusal("report", "./vit", "--data", "texts.txt") == (
            "texts.txt holds text, and ViTForImageClassification reads images; "
            "give a folder of images or an .npy of pixel values"
        )

    def test_wrong_width(self, folder: Path) -> None:
        np.save("wide.npy", np.ones((6, 9)))
        # torch 2.15 puts the name of its function before.
        assert refusal("layers", "nets.py:Net", "--data", "wide.npy").replace("addmm: ", "") == (
            "the forward of Net raised RuntimeError: mat1 and mat2 shapes cannot be multiplied "
            "(6x9 and 4x3); it was given float32 of shape (6, 9); do the data fit the model?"
        )

    def test_code_that_raises_while_it_yields(self, folder: Path) -> None:
        assert refusal("layers", "nets.py:Net", "--data", "nets.py:batches") == (
            "nets.py:batches raised FileNotFoundError: data/train"
        )


class TestOutput:
    @pytest.mark.parametrize("command", ["report", "export"])
    def test_a_file_where_the_folder_should_be(self, folder: Path, command: str) -> None:
        words = refusal(command, "nets.py:factory", "--out", "x.npy")
        assert words == "--out x.npy is a file; a folder was needed, existing or new"
        assert refusal(command, "nets.py:factory", "--out", "x.npy/sub") == (
            f"--out x.npy/sub cannot be written: {folder / 'x.npy'} is a file"
        )

    def test_where_a_recording_cannot_be_saved(self, folder: Path) -> None:
        start = ("export", "nets.py:factory", "--out", "out", "--save")
        assert refusal(*start, "bert") == "--save bert is a folder; the name of a file was needed"
        assert refusal(*start, "no/run.normprobe").startswith(
            "--save no/run.normprobe: there is no folder no"
        )

    def test_no_permission(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)
        assert refusal("export", "nets.py:factory", "--out", "out") == (
            f"--out out cannot be written: no permission to write in {folder}"
        )


class TestRecordings:
    @pytest.mark.parametrize(("name", "content"), [("r.normprobe", b"PK\x03\x04"), ("notes.md", b"# notes")])
    def test_files_that_are_none(self, folder: Path, name: str, content: bytes) -> None:
        Path(name).write_bytes(content)
        assert name in refusal("report", name)
        assert name in refusal("merge", name, name, "--out", "m.normprobe")

    def test_one_that_is_not_there(self, folder: Path) -> None:
        assert "none.normprobe" in refusal("export", "none.normprobe", "--out", "out")


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["report"],
            ["export", "m"],
            ["report", "m", "--kinds", "convolution"],
            ["report", "m", "--samples", "few"],
            ["report", "m", "--samples", "-1"],
            ["report", "m", "--samples", "²"],
            ["report", "m", "--samples", "٣"],
            ["report", "m", "--samples", "9" * 5000],
            ["report", "m", "--limit", "0"],
            ["report", "m", "--dtype", "int8"],
            ["export", "m", "--out", "o", "--format", "xls"],
            ["none"],
        ],
    )
    def test_wrong_usage_ends_with_2(self, arguments: list[str]) -> None:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert "Usage:" in done.stderr


class TestDebug:
    def test_the_traceback_is_shown_on_request(self, folder: Path) -> None:
        done = CliRunner().invoke(main, ["layers", "nets.py:factory", "--data", "x.npy", "--debug"])
        assert isinstance(done.exception, normprobe.ModelError)
        assert isinstance(done.exception.__cause__, LookupError)

    def test_an_error_of_normprobe_says_so(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*_: object, **__: object) -> None:
            raise KeyError("oops")

        monkeypatch.setattr("normprobe.probe.record", wrong)
        done = CliRunner().invoke(main, ["layers", "nets.py:Net", "--data", "x.npy"])
        assert done.exit_code == 1
        assert done.stderr == (
            "Error: KeyError: 'oops' (a defect of normprobe; --debug shows where, please report it)\n"
        )

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (PermissionError(13, "Permission denied", "out/x"), "Permission denied: out/x"),
            (OSError(28, "No space left on device"), "No space left on device"),
            (MemoryError(), "out of memory; try a smaller --batch-size"),
        ],
    )
    def test_errors_of_the_machine(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
    ) -> None:
        def full(*_: object) -> None:
            raise error

        monkeypatch.setattr("normprobe.Recording.to_csv", full)
        done = CliRunner().invoke(main, ["export", "nets.py:Net", "--data", "x.npy", "--out", "out"])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: {words}")

    @pytest.mark.parametrize("command", ["report", "layers"])
    def test_an_endless_name_is_cut(self, folder: Path, command: str) -> None:
        done = CliRunner().invoke(main, [command, "m" * 5000])
        assert done.exit_code == 1
        assert len(done.stderr) < 1100
        assert done.stderr.startswith("Error: ")

    @pytest.mark.parametrize("data", [["--data", "nets.py:batches"], []], ids=["callable", "bundled"])
    def test_a_column_of_what_has_none_is_refused(self, folder: Path, data: list[str]) -> None:
        done = CliRunner().invoke(main, ["layers", "nets.py:Net", "--column", "a", *data])
        assert done.exit_code == 1
        assert "--column a names the column of a table; " in done.stderr

    def test_other_libraries_are_silent_around_an_error(self, folder: Path) -> None:
        torch.save({"a": object()}, "bert/pytorch_model.bin")
        Path("bert/model.safetensors").unlink()
        done = subprocess.run(
            [sys.executable, "-c", "from normprobe.cli import main; main()", "layers", "./bert"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("Error: ./bert cannot be loaded as BertModel: its weights hold pickled")
