"""A model from a checkpoint, from a callable, or a plain sentence why not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from normprobe.errors import ModelError
from normprobe.loading.models import is_import_path, load_model, without_bars
from tests.helpers import checkpoints

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.fc(x))

def build():
    return Net().train()

def wide():
    return Net(8)

def broken():
    raise ValueError("no such\\nthing")

def leaving():
    raise SystemExit(2)

def number():
    return 7

instance = Net()
text = "not callable"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(checkpoints.bert(tmp_path_factory.mktemp("checkpoints") / "bert"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def nets(tmp_path: Path) -> str:
    file = tmp_path / "nets.py"
    file.write_text(FACTORY)
    return str(file)


def refusal(spec: object, **options: object) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(ModelError) as caught:
        load_model(str(spec), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


class TestCheckpoint:
    def test_the_class_and_the_weights_are_those_of_the_folder(self, folder: Path) -> None:
        found = load_model(str(folder))
        assert type(found.module) is transformers.BertModel
        stored = load_file(folder / "model.safetensors")
        state = found.module.state_dict()
        assert all(torch.equal(state[name], value) for name, value in stored.items())
        assert not found.module.training
        assert found.source == str(folder)
        assert found.name == "/".join(folder.parts[-2:])
        assert found.warnings == ()

    def test_the_dtype_is_the_stored_one_unless_another_is_asked_for(self, tmp_path: Path) -> None:
        config = transformers.BertConfig(vocab_size=30, **checkpoints.SIZE)
        transformers.BertModel(config).to(torch.bfloat16).save_pretrained(tmp_path)
        assert load_model(str(tmp_path)).dtype is torch.bfloat16
        assert load_model(str(tmp_path), dtype="float64").dtype is torch.float64
        assert refusal(tmp_path, dtype="int8").startswith("--dtype int8 is not one of auto, float32")

    @pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "vit", "clip", "wav2vec2"])
    def test_every_family_comes_back_as_its_own_class(self, kind: str, tmp_path: Path) -> None:
        spec = getattr(checkpoints, kind)(tmp_path)
        named = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
        assert type(load_model(spec).module).__name__ == named

    def test_an_older_sentence_transformers_folder_is_entered(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "sentence" / "0_Transformer")
        assert type(load_model(str(tmp_path / "sentence")).module) is transformers.BertModel

    def test_a_relative_path_keeps_its_name(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        assert load_model("./bert").name == "./bert"

    def test_missing_folder(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "none").endswith(
            "does not exist; MODEL is a Hugging Face folder, a hub id, a .gguf file or module.py:callable"
        )

    def test_no_config(self, tmp_path: Path) -> None:
        assert "has no config.json; a folder made by save_pretrained was needed" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("name", "what"),
        [("adapter_config.json", "a PEFT adapter"), ("model_index.json", "a diffusers pipeline")],
    )
    def test_folders_of_other_libraries_are_known_by_name(self, tmp_path: Path, name: str, what: str) -> None:
        (tmp_path / name).write_text("{}")
        assert f"is {what}" in refusal(tmp_path)

    @pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "\x00"])
    def test_config_that_is_not_json(self, copy: Path, text: str) -> None:
        (copy / "config.json").write_text(text)
        assert "config.json of" in refusal(copy)
        assert "is not JSON" in refusal(copy)

    def test_config_that_is_no_object(self, copy: Path) -> None:
        (copy / "config.json").write_text("[1]")
        assert "holds a list; an object was needed" in refusal(copy)

    def test_a_count_that_no_model_has(self, copy: Path) -> None:
        edit_config(copy, num_hidden_layers=10**12)
        assert "says num_hidden_layers 1,000,000,000,000; is it damaged?" in refusal(copy)

    def test_damaged_configs_load_or_are_refused(self, copy: Path) -> None:
        """1,000 damaged configs: a model with all of its weights, or one line; never another exception."""
        dice = random.Random(0)
        file = copy / "config.json"
        intact = json.loads(file.read_text())
        refused = 0
        odd = [None, -1, 0, 3, "x", [], {}, 1e30, True, 10**12, [1, 2], "\ud800"]
        for _ in range(1000):
            names = dice.sample(list(intact), 2)
            file.write_text(json.dumps(intact | {name: dice.choice(odd) for name in names}))
            try:
                load_model(str(copy))
            except ModelError:
                refused += 1
        assert 300 < refused < 1000

    def test_no_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        assert "has a config.json but no weights" in refusal(copy)

    def test_no_architecture_and_no_known_type(self, copy: Path) -> None:
        edit_config(copy, architectures=None, model_type="none_such")
        assert "names no architecture: it has architectures None and model_type 'none_such'" in refusal(copy)

    def test_no_architecture_but_a_known_type_is_taken_with_a_warning(self, copy: Path) -> None:
        edit_config(copy, architectures=None)
        found = load_model(str(copy))
        assert type(found.module) is transformers.BertModel
        assert found.warnings == (
            "config.json names no architecture; taken as BertModel from model_type bert",
        )

    def test_an_architecture_that_transformers_lacks(self, copy: Path) -> None:
        edit_config(copy, architectures=["BertOfTomorrow"])
        message = refusal(copy)
        assert "names the architecture BertOfTomorrow, which transformers" in message
        assert "does not have; update it, or build the model with module.py:callable" in message

    @pytest.mark.parametrize("name", ["BertConfig", "AutoTokenizer"])
    def test_an_architecture_that_is_no_model(self, copy: Path, name: str) -> None:
        edit_config(copy, architectures=[name])
        assert f"names {name}, which is not a model that can be loaded here" in refusal(copy)

    @pytest.mark.parametrize("value", [7, [3], {"a": 1}])
    def test_architectures_of_another_kind(self, copy: Path, value: object) -> None:
        edit_config(copy, architectures=value)
        assert "a list of names was needed" in refusal(copy)

    def test_remote_code_is_refused_and_not_run(self, copy: Path) -> None:
        edit_config(copy, architectures=["OwnModel"], auto_map={"AutoModel": "own.OwnModel"})
        (copy / "own.py").write_text("raise AssertionError('it ran')")
        message = refusal(copy)
        assert "brings the code of OwnModel with it" in message
        assert "--trust-remote-code" in message

    def test_remote_code_runs_where_it_is_trusted(
        self, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
        edit_config(copy, architectures=["OwnModel"], auto_map={"AutoModel": "own.OwnModel"})
        (copy / "own.py").write_text(
            "from transformers import BertModel\n\nclass OwnModel(BertModel):\n    pass\n"
        )
        assert type(load_model(str(copy), trust_remote_code=True).module).__name__ == "OwnModel"

    @pytest.mark.parametrize("keep", [0, 5, 200, 5000])
    def test_damaged_weights(self, copy: Path, keep: int) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        assert "cannot be loaded as BertModel: its weights are damaged or cut off" in refusal(copy)

    def test_weights_that_miss_a_layer_are_not_made_up(self, copy: Path) -> None:
        state = load_file(copy / "model.safetensors")
        del state["encoder.layer.1.output.dense.weight"]
        save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
        message = refusal(copy)
        assert "lacks weights of BertModel, which would be left at random" in message
        assert "encoder.layer.1.output.dense.weight" in message

    def test_a_missing_pooler_is_warned_of(self, copy: Path) -> None:
        state = load_file(copy / "model.safetensors")
        kept = {name: value for name, value in state.items() if "pooler" not in name}
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        assert load_model(str(copy)).warnings == (
            "pooler.dense.bias, pooler.dense.weight not in the checkpoint: left at random",
        )

    def test_weights_of_another_shape(self, copy: Path) -> None:
        edit_config(copy, intermediate_size=48)
        assert "the shapes of its weights do not fit its config.json" in refusal(copy)

    def test_pickled_weights_are_not_unpickled(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        torch.save({"weight": Trap()}, copy / "pytorch_model.bin")
        assert "pickled objects, and loading those runs whatever code they hold" in refusal(copy)

    def test_the_hub_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = refusal("no-one/no-such-model")
        assert message.startswith("no-one/no-such-model is neither a folder here nor a model that the hub")

    def test_a_gguf_file(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        assert refusal(file).endswith("model.gguf is not a file")
        file.write_bytes(b"PK..")
        assert refusal(file).endswith("does not begin like a GGUF file")
        file.write_bytes(b"GGUF" + bytes(20))
        assert "pip install gguf" in refusal(file) or "cannot be read by transformers" in refusal(file)

    def test_weights_go_with_a_callable_only(self, folder: Path) -> None:
        assert "has weights of its own" in refusal(folder, weights="w.safetensors")

    def test_a_device_that_is_not_there(self, folder: Path) -> None:
        assert refusal(folder, device="gpu").startswith("--device gpu cannot be used here")
        assert refusal(folder, device="cuda:99").startswith("--device cuda:99 cannot be used here")
        assert "holds no numbers" in refusal(folder, device="meta")


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise AssertionError('it ran')",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt", "a pickle file: loading a pickled module runs whatever code it holds"),
        ("model.pkl", "a pickle file"),
        ("model.safetensors", "holds weights without an architecture"),
        ("model.py", "say which callable of it builds the model"),
        ("model.onnx", "is no model; MODEL is a Hugging Face folder"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert words in refusal(tmp_path / name)


class TestCallable:
    def test_import_paths_differ_from_other_paths(self) -> None:
        assert is_import_path("nets.py:build")
        assert is_import_path("/a b/nets.py:Net.small")
        assert is_import_path("my.nets:build")
        assert not is_import_path("./folder")
        assert not is_import_path("owner/name")
        assert not is_import_path("nets.py")
        assert not is_import_path("nets.py:")

    @pytest.mark.parametrize("name", ["build", "Net", "instance"])
    def test_a_factory_a_class_and_a_module(self, nets: str, name: str) -> None:
        found = load_model(f"{nets}:{name}")
        assert isinstance(found.module.fc, nn.Linear)
        assert not found.module.training
        assert found.config is None
        assert found.source is None
        assert found.name == f"{nets}:{name}"

    def test_a_module_by_its_dotted_name(self, nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(nets).rename(Path(nets).with_name("dotted_nets.py"))
        monkeypatch.chdir(Path(nets).parent)
        monkeypatch.syspath_prepend(str(Path(nets).parent))
        assert isinstance(load_model("dotted_nets:build").module.fc, nn.Linear)

    def test_a_transformers_model_keeps_its_folder(self, folder: Path, tmp_path: Path) -> None:
        load = f"BertModel.from_pretrained({str(folder)!r})"
        (tmp_path / "own.py").write_text(f"from transformers import BertModel\ndef build(): return {load}\n")
        found = load_model(f"{tmp_path / 'own.py'}:build")
        assert found.source == str(folder)
        assert found.config.model_type == "bert"

    def test_a_module_takes_the_place_of_no_other(self, tmp_path: Path) -> None:
        import random

        (tmp_path / "random.py").write_text(FACTORY)
        load_model(f"{tmp_path / 'random.py'}:build")
        import random as again

        assert again is random

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("broken", "broken raised ValueError: no such thing"),
            ("leaving", "leaving raised SystemExit: 2"),
            ("number", "number returned a int; an nn.Module was needed"),
            ("text", "text is a str, not a callable that returns an nn.Module"),
            ("none_such", "has no 'none_such'; it defines Net, broken, build"),
        ],
    )
    def test_what_a_factory_does_wrong(self, nets: str, name: str, words: str) -> None:
        assert words in refusal(f"{nets}:{name}")

    def test_a_module_that_does_not_import(self, tmp_path: Path) -> None:
        file = tmp_path / "bad.py"
        assert "is not a file; give module.py:callable" in refusal(f"{file}:build")
        file.write_text("def build(:\n")
        assert "bad.py raised SyntaxError" in refusal(f"{file}:build")
        file.write_text("import no_such_package_at_all\n")
        assert "raised ModuleNotFoundError: No module named" in refusal(f"{file}:build")
        assert "importing no_such.module raised ModuleNotFoundError" in refusal("no_such.module:build")


class TestWeights:
    @pytest.fixture
    def state(self, nets: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        module = load_model(f"{nets}:Net").module
        return {
            name: torch.rand_like(value.float()).to(value.dtype)
            for name, value in module.state_dict().items()
        }

    @pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "data-parallel"])
    def test_weights_are_loaded(
        self, nets: str, state: dict[str, torch.Tensor], tmp_path: Path, form: str
    ) -> None:
        file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
        if form == "safetensors":
            save_file(state, file)
        else:
            prefixed = {f"module.{name}": value for name, value in state.items()}
            torch.save(
                {"plain": state, "nested": {"state_dict": state}, "data-parallel": prefixed}[form], file
            )
        module = load_model(f"{nets}:build", weights=str(file)).module
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())

    def test_weights_that_do_not_fit(self, nets: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
        file = tmp_path / "w.safetensors"
        save_file(state, file)
        assert "fc.weight has shape (3, 4) in the file and (3, 8) in the model" in refusal(
            f"{nets}:wide", weights=str(file)
        )
        state["other"] = state.pop("norm.weight")
        save_file(state, file)
        message = refusal(f"{nets}:build", weights=str(file))
        assert "norm.weight is missing in the file; other is not in the model" in message

    def test_pickles_and_damaged_files_are_refused(self, nets: str, tmp_path: Path) -> None:
        spec, file = f"{nets}:build", tmp_path / "w.pt"
        assert "is not a file" in refusal(spec, weights=str(file))
        torch.save({"fc.weight": Trap()}, file)
        assert "is not a plain state dict" in refusal(spec, weights=str(file))
        torch.save([1, 2], file)
        assert "holds a list that is no state dict" in refusal(spec, weights=str(file))
        torch.save(load_model(spec).module, file)
        assert "save model.state_dict() instead" in refusal(spec, weights=str(file))
        file.write_bytes(b"PK\x03\x04 cut off")
        assert str(file) in refusal(spec, weights=str(file))
        damaged = tmp_path / "w.safetensors"
        damaged.write_bytes(b"\xff" * 20)
        assert "cannot be read, it may be damaged" in refusal(spec, weights=str(damaged))


def test_bars_are_restored() -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()
    try:
        with without_bars():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
