"""Batches that fit a model: tokens, pixels and sound as its own processors make them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from normprobe.errors import DataError, ModelError
from normprobe.loading.inputs import Inputs, load_inputs
from normprobe.loading.models import LoadedModel, load_model
from tests.helpers import checkpoints

TEXTS = ["the cat sat .", "a dog ran", "it was good and then it was not very good !", "the mat", "bad cat ."]
TEMPLATE = "{% for m in messages %}</s>{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """One tiny model of each family."""
    root = tmp_path_factory.mktemp("shelf")
    kinds = ["bert", "gpt2", "t5", "vit", "clip", "wav2vec2"]
    models = {kind: load_model(getattr(checkpoints, kind)(root / kind)) for kind in kinds}
    models["llama"] = load_model(checkpoints.llama(root / "llama", TEMPLATE))
    models["left"] = load_model(checkpoints.bert(root / "left", side="left"))
    return models


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(TEXTS) + "\n")
    return str(file)


def batches_of(inputs: Inputs) -> list[Any]:
    made = list(inputs.batches)
    assert inputs.total in {None, len(made)}
    return made


def runs(model: LoadedModel, inputs: Inputs) -> list[Any]:
    """Run the model on every batch."""
    with torch.no_grad():
        return [
            model.module(**batch) if isinstance(batch, dict) else model.module(*batch)
            for batch in batches_of(inputs)
        ]


class TestTexts:
    def test_batches_are_those_of_the_models_own_tokenizer(
        self, shelf: dict[str, LoadedModel], texts: str
    ) -> None:
        model = shelf["bert"]
        inputs = load_inputs(model, texts, batch_size=2)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model.source)
        assert inputs.description == "5 texts from texts.txt"
        assert (inputs.total, inputs.unit, inputs.example_unit) == (3, "token", "text")
        assert inputs.warnings == ()
        for start, batch in zip((0, 2, 4), batches_of(inputs), strict=True):
            expected = tokenizer(TEXTS[start : start + 2], padding=True, return_tensors="pt")
            assert set(batch) == {"input_ids", "attention_mask", *({"token_type_ids"} & set(expected))}
            assert all(torch.equal(batch[name], expected[name]) for name in batch)

    def test_the_same_batches_come_each_time(self, shelf: dict[str, LoadedModel], texts: str) -> None:
        inputs = load_inputs(shelf["bert"], texts)
        first, second = batches_of(inputs), batches_of(inputs)
        assert torch.equal(first[0]["input_ids"], second[0]["input_ids"])

    def test_padding_is_on_the_tokenizers_side(self, shelf: dict[str, LoadedModel], texts: str) -> None:
        (right,) = batches_of(load_inputs(shelf["bert"], texts))
        (left,) = batches_of(load_inputs(shelf["left"], texts))
        lengths = right["attention_mask"].sum(1)
        assert torch.equal(lengths, left["attention_mask"].sum(1))
        assert right["attention_mask"][:, 0].all()
        assert left["attention_mask"][:, -1].all()
        for row, length in enumerate(lengths):
            assert torch.equal(right["input_ids"][row, :length], left["input_ids"][row, -length:])

    def test_without_a_padding_token_the_end_token_stands_in(
        self, shelf: dict[str, LoadedModel], texts: str
    ) -> None:
        (batch,) = batches_of(load_inputs(shelf["gpt2"], texts))
        hidden = batch["attention_mask"] == 0
        assert hidden.any()
        assert (batch["input_ids"][hidden] == 4).all()

    @pytest.mark.parametrize(("kind", "most"), [("bert", 40), ("gpt2", 24), ("llama", 32)])
    def test_long_texts_are_cut_at_the_models_maximum_with_a_warning(
        self, shelf: dict[str, LoadedModel], tmp_path: Path, kind: str, most: int
    ) -> None:
        file = tmp_path / "long.txt"
        file.write_text("the cat\n" + "dog " * 100 + "\n" + "mat " * 4000 + "\n")
        inputs = load_inputs(shelf[kind], str(file))
        assert inputs.warnings == (f"2 texts truncated to {most} tokens, the model's maximum",)
        (batch,) = batches_of(inputs)
        assert batch["attention_mask"].sum(1).tolist()[1:] == [most, most]
        if kind == "bert":
            assert batch["input_ids"][1, -1] == 3, "the closing [SEP] stays"
        runs(shelf[kind], inputs)

    def test_positions_that_begin_after_the_padding_index_count(self, tmp_path: Path) -> None:
        config = transformers.RobertaConfig(
            vocab_size=30, max_position_embeddings=20, pad_token_id=0, **checkpoints.SIZE
        )
        tokenizer = checkpoints.words_tokenizer(most=10**30)
        model = load_model(checkpoints.save(tmp_path, transformers.RobertaModel(config), tokenizer))
        (tmp_path / "long.txt").write_text("cat " * 50)
        inputs = load_inputs(model, str(tmp_path / "long.txt"))
        assert inputs.warnings == ("1 text truncated to 19 tokens, the model's maximum",)
        runs(model, inputs)

    def test_a_decoder_gets_the_text_shifted_by_its_start_token(
        self, shelf: dict[str, LoadedModel], texts: str
    ) -> None:
        inputs = load_inputs(shelf["t5"], texts)
        (batch,) = batches_of(inputs)
        ids, given = batch["input_ids"], batch["decoder_input_ids"]
        assert (given[:, 0] == 0).all()
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            assert torch.equal(given[row, 1:length], ids[row, : length - 1])
            assert batch["decoder_attention_mask"][row].sum() == length
        runs(shelf["t5"], inputs)

    def test_a_decoder_without_any_start_token(self, tmp_path: Path, texts: str) -> None:
        model = load_model(checkpoints.t5(tmp_path / "t5"))
        for place in (model.config, model.module.generation_config):
            place.decoder_start_token_id = place.bos_token_id = place.pad_token_id = None
        with pytest.raises(ModelError, match="names no decoder_start_token_id"):
            batches_of(load_inputs(model, texts))

    def test_labels_are_the_texts_of_the_tokens(self, shelf: dict[str, LoadedModel], texts: str) -> None:
        inputs = load_inputs(shelf["bert"], texts)
        (batch,) = batches_of(inputs)
        assert inputs.labels is not None
        named = inputs.labels((), batch)
        assert named[1][:6] == ["[CLS]", "a", "dog", "ran", "[SEP]", "[PAD]"]
        assert inputs.labels((batch["input_ids"],), {}) == named
        assert inputs.labels((), {}) == []
        assert [len(row) for row in named] == [batch["input_ids"].shape[1]] * 5

    def test_a_model_without_a_mask_gets_texts_one_by_one(
        self, shelf: dict[str, LoadedModel], texts: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = shelf["gpt2"]
        monkeypatch.setattr(type(model.module), "forward", lambda self, input_ids: input_ids)
        inputs = load_inputs(model, texts)
        assert [batch["input_ids"].shape for batch in batches_of(inputs)] == [
            (1, n) for n in (4, 3, 11, 2, 3)
        ]
        assert inputs.warnings == ("the model takes no attention mask: texts are run one by one",)

    def test_limit_and_batch_size(self, shelf: dict[str, LoadedModel], texts: str) -> None:
        inputs = load_inputs(shelf["bert"], texts, limit=3, batch_size=2)
        assert inputs.description == "3 texts from texts.txt"
        assert [len(batch["input_ids"]) for batch in batches_of(inputs)] == [2, 1]
        for name in ("limit", "batch_size"):
            with pytest.raises(DataError, match="is 0; at least 1 was needed"):
                load_inputs(shelf["bert"], texts, **{name: 0})

    def test_the_bundled_set_is_varied_ascii_english(self, shelf: dict[str, LoadedModel]) -> None:
        inputs = load_inputs(shelf["bert"], limit=10)
        assert inputs.description == "10 texts from the set that ships with normprobe"
        whole = Path(__file__).parents[3] / "normprobe" / "loading" / "inputs" / "bundled_data" / "texts.txt"
        lines = whole.read_text(encoding="ascii").splitlines()
        lengths = [len(line.split()) for line in lines]
        assert len(lines) == len(set(lines)) == 200
        assert min(lengths) <= 2
        assert 80 <= max(lengths) <= 100
        assert sum(length > 60 for length in lengths) >= 5

    def test_rows_without_any_token_are_left_out_with_a_warning(
        self, shelf: dict[str, LoadedModel], tmp_path: Path
    ) -> None:
        (tmp_path / "odd.txt").write_text("\u200b\u00ad\nthe cat\n", encoding="utf-8")
        inputs = load_inputs(shelf["gpt2"], str(tmp_path / "odd.txt"))
        counted = sum(len(batch["input_ids"]) for batch in batches_of(inputs))
        assert counted + sum("without a token" in warning for warning in inputs.warnings) == 2


class TestChat:
    def test_messages_go_through_the_template(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        file = tmp_path / "chat.jsonl"
        rows = [{"messages": [{"role": "the", "content": "cat sat"}, {"role": "a", "content": "dog ran"}]}]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs = load_inputs(shelf["llama"], str(file))
        assert inputs.description == "1 conversation from chat.jsonl"
        (batch,) = batches_of(inputs)
        assert inputs.labels is not None
        assert inputs.labels((), batch) == [["</s>", "the", "cat", "sat", "</s>", "a", "dog", "ran"]]

    def test_without_a_template(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        file = tmp_path / "chat.jsonl"
        file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
        with pytest.raises(DataError, match="the model's tokenizer has no chat template"):
            load_inputs(shelf["bert"], str(file))

    def test_a_template_that_refuses_says_where(self, tmp_path: Path) -> None:
        model = load_model(checkpoints.llama(tmp_path / "m", "{{ raise_exception('roles must alternate') }}"))
        file = tmp_path / "chat.jsonl"
        file.write_text('\n{"messages": [{"role": "user", "content": "hi"}]}\n')
        with pytest.raises(DataError, match=r"chat.jsonl, row 2: the chat template refuses it: .*alternate"):
            load_inputs(model, str(file))

    @pytest.mark.parametrize("messages", ["7", '"hi"', "[]", '["hi"]', "{}"])
    def test_messages_of_another_form(
        self, shelf: dict[str, LoadedModel], tmp_path: Path, messages: str
    ) -> None:
        file = tmp_path / "chat.jsonl"
        file.write_text(f'{{"messages": {messages}}}\n')
        with pytest.raises(DataError, match="row 1: messages must be a list of objects"):
            load_inputs(shelf["llama"], str(file))


class TestTokenizers:
    def test_a_folder_without_one_is_not_given_an_empty_one(self, tmp_path: Path, texts: str) -> None:
        config = transformers.BertConfig(vocab_size=30, **checkpoints.SIZE)
        model = load_model(checkpoints.save(tmp_path / "bare", transformers.BertModel(config)))
        with pytest.raises(DataError, match="has no tokenizer files; save the tokenizer into it"):
            load_inputs(model, texts)

    def test_one_whose_vocabulary_is_gone(self, tmp_path: Path, texts: str) -> None:
        model = load_model(checkpoints.bert(tmp_path / "m"))
        (tmp_path / "m" / "tokenizer.json").unlink()
        (tmp_path / "m" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        with pytest.raises(DataError, match=r"tokenizer of .* (has an empty vocabulary|cannot be loaded)"):
            load_inputs(model, texts)

    def test_a_damaged_one(self, tmp_path: Path, texts: str) -> None:
        model = load_model(checkpoints.bert(tmp_path / "m"))
        (tmp_path / "m" / "tokenizer.json").write_text("{")
        with pytest.raises(DataError, match=r"the tokenizer of .* cannot be loaded"):
            load_inputs(model, texts)

    def test_one_of_another_model(self, tmp_path: Path, texts: str) -> None:
        config = transformers.BertConfig(vocab_size=9, **checkpoints.SIZE)
        model = load_model(
            checkpoints.save(tmp_path / "m", transformers.BertModel(config), checkpoints.words_tokenizer())
        )
        with pytest.raises(DataError, match=r"makes token \d+, and the model knows only 0 to 8"):
            load_inputs(model, texts)


class TestImages:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        folder = tmp_path / "photos"
        (folder / "sub").mkdir(parents=True)
        for index, name in enumerate(["b.png", "a.jpg", "sub/c.png"]):
            mode = "L" if name == "b.png" else "RGB"
            grey = 40 * index if mode == "L" else (40 * index,) * 3
            Image.new(mode, (40 + index, 30), grey).save(folder / name)
        (folder / "notes.txt").write_text("not an image")
        return folder

    def test_pixels_are_those_of_the_models_own_processor(
        self, shelf: dict[str, LoadedModel], photos: Path
    ) -> None:
        inputs = load_inputs(shelf["vit"], str(photos), batch_size=2)
        assert inputs.description == "3 images from photos/"
        assert (inputs.unit, inputs.example_unit) == ("position", "image")
        made = torch.cat([batch["pixel_values"] for batch in batches_of(inputs)])
        opened = [Image.open(photos / name).convert("RGB") for name in ("a.jpg", "b.png", "sub/c.png")]
        expected = checkpoints.image_processor()(images=opened, return_tensors="pt")["pixel_values"]
        assert torch.equal(made, expected)
        runs(shelf["vit"], inputs)

    def test_the_bundled_set(self, shelf: dict[str, LoadedModel]) -> None:
        inputs = load_inputs(shelf["vit"])
        assert inputs.description == "8 images from the set that ships with normprobe"
        assert sum(len(batch["pixel_values"]) for batch in batches_of(inputs)) == 8
        bundled = Path(__file__).parents[3] / "normprobe" / "loading" / "inputs" / "bundled_data" / "images"
        assert sum(file.stat().st_size for file in bundled.iterdir()) < 200_000

    def test_one_image_alone(self, shelf: dict[str, LoadedModel], photos: Path) -> None:
        assert load_inputs(shelf["vit"], str(photos / "a.jpg")).description == "1 image from a.jpg"

    def test_without_a_processor_a_plain_one_is_used_with_a_warning(
        self, tmp_path: Path, photos: Path
    ) -> None:
        model = load_model(checkpoints.vit(tmp_path / "m", processor=False))
        inputs = load_inputs(model, str(photos))
        assert inputs.warnings == (
            "no image processor beside the model: images resized to 32 x 32, values from -1 to 1",
        )
        (batch,) = batches_of(inputs)
        assert batch["pixel_values"].shape == (3, 3, 32, 32)
        assert batch["pixel_values"].min() >= -1
        assert torch.allclose(batch["pixel_values"][2], torch.tensor(80 / 127.5 - 1))

    def test_arrays_of_pixels(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
        np.save(tmp_path / "hwc.npy", pixels)
        np.save(tmp_path / "chw.npy", pixels.transpose(0, 3, 1, 2))
        (one,) = batches_of(load_inputs(shelf["vit"], str(tmp_path / "hwc.npy")))
        (two,) = batches_of(load_inputs(shelf["vit"], str(tmp_path / "chw.npy")))
        assert torch.equal(one["pixel_values"], two["pixel_values"])
        np.save(tmp_path / "ready.npy", np.zeros((2, 3, 32, 32), dtype=np.float32))
        (ready,) = batches_of(load_inputs(shelf["vit"], str(tmp_path / "ready.npy")))
        assert ready["pixel_values"].shape == (2, 3, 32, 32)

    def test_what_is_no_image(self, shelf: dict[str, LoadedModel], photos: Path, tmp_path: Path) -> None:
        (photos / "bad.png").write_bytes((photos / "b.png").read_bytes()[:40])
        with pytest.raises(DataError, match=r"bad.png is not a readable image: .*; mend or remove it"):
            batches_of(load_inputs(shelf["vit"], str(photos)))
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="is a folder without images"):
            load_inputs(shelf["vit"], str(tmp_path / "empty"))
        np.save(tmp_path / "five.npy", np.zeros((2, 8, 8, 5), dtype=np.uint8))
        with pytest.raises(DataError, match=r"an image of shape \(8, 8, 5\) was given; 1 or 3 channels"):
            batches_of(load_inputs(shelf["vit"], str(tmp_path / "five.npy")))


class TestPairs:
    def test_a_model_with_two_towers_gets_both(self, shelf: dict[str, LoadedModel], texts: str) -> None:
        inputs = load_inputs(shelf["clip"], texts, batch_size=3)
        assert inputs.description == "5 texts from texts.txt, with 8 images"
        assert [set(batch) for batch in batches_of(inputs)] == [
            {"input_ids", "attention_mask", "pixel_values"}
        ] * 2
        assert [len(batch["pixel_values"]) for batch in batches_of(inputs)] == [3, 2]
        runs(shelf["clip"], inputs)

    def test_images_get_texts(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
        inputs = load_inputs(shelf["clip"], str(tmp_path / "x.png"))
        assert inputs.description == "1 image from x.png, with texts that ship with normprobe"
        runs(shelf["clip"], inputs)


class TestSound:
    @pytest.fixture
    def waves(self, tmp_path: Path) -> str:
        np.save(tmp_path / "waves.npy", np.random.default_rng(0).normal(size=(3, 400)))
        return str(tmp_path / "waves.npy")

    def test_sound_goes_through_the_feature_extractor(
        self, shelf: dict[str, LoadedModel], waves: str
    ) -> None:
        inputs = load_inputs(shelf["wav2vec2"], waves, batch_size=2)
        assert inputs.description == "3 recordings from waves.npy, taken as 16,000 Hz"
        made = torch.cat([batch["input_values"] for batch in batches_of(inputs)])
        assert made.mean(1).abs().max() < 1e-5, "the extractor normalizes each recording"
        assert torch.allclose(made.var(1, correction=0), torch.ones(3), atol=1e-4)
        runs(shelf["wav2vec2"], inputs)

    def test_a_decoder_of_sound_gets_its_start_token(self, tmp_path: Path, waves: str) -> None:
        model = load_model(checkpoints.whisper(tmp_path / "whisper"))
        inputs = load_inputs(model, waves)
        (batch,) = batches_of(inputs)
        assert batch["input_features"].shape == (3, 80, 100), "padded to the extractor's own length"
        assert batch["decoder_input_ids"].tolist() == [[7], [7], [7]]
        runs(model, inputs)

    def test_no_set_of_sounds_ships(self, shelf: dict[str, LoadedModel]) -> None:
        with pytest.raises(
            DataError, match=r"Wav2Vec2Model reads sound.*shape .recordings, samples.*and give --data"
        ):
            load_inputs(shelf["wav2vec2"])


PLAIN = """
import torch
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x, scale=None):
        return self.fc(x) * (1 if scale is None else scale)

def tensors():
    for size in (2, 3):
        yield torch.ones(size, 4)

def mixed():
    yield torch.ones(2, 4),
    yield {"x": torch.ones(2, 4), "scale": torch.ones(2, 1)}

def failing():
    yield torch.ones(2, 4)
    raise KeyError("row 9")

def wrong():
    return [torch.ones(2, 4), 7]

def nothing():
    return iter(())

def none():
    return None

listed = [torch.ones(2, 4)] * 3
"""


class TestPlainModels:
    @pytest.fixture
    def code(self, tmp_path: Path) -> str:
        (tmp_path / "plain.py").write_text(PLAIN)
        return str(tmp_path / "plain.py")

    @pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
    def test_arrays_in_rows(self, code: str, tmp_path: Path, form: str) -> None:
        model = load_model(f"{code}:Two")
        x = np.random.default_rng(0).normal(size=(70, 4))
        file = tmp_path / f"x.{form}"
        if form == "npy":
            np.save(file, x)
        elif form == "npz":
            np.savez(file, x=x, scale=x[:, :1])
        else:
            save_file({"x": torch.tensor(x), "scale": torch.tensor(x[:, :1])}, file)
        inputs = load_inputs(model, str(file))
        assert inputs.description == f"70 rows from x.{form}"
        assert (inputs.unit, inputs.example_unit) == ("position", "example")
        made = batches_of(inputs)
        assert len(made) == 2
        whole = torch.cat([batch[0] if form == "npy" else batch["x"] for batch in made])
        assert whole.dtype is torch.float32
        assert torch.equal(whole, torch.tensor(x, dtype=torch.float32))
        assert set(made[0]) == {"x", "scale"} if form != "npy" else len(made[0]) == 1
        runs(model, inputs)
        assert load_inputs(model, str(file), limit=5).description == f"5 rows from x.{form}"

    def test_arrays_without_names_are_positional(self, code: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", np.ones((2, 4)), np.full((2, 1), 3.0))
        model = load_model(f"{code}:Two")
        (batch,) = batches_of(load_inputs(model, str(tmp_path / "x.npz")))
        assert [tuple(part.shape) for part in batch] == [(2, 4), (2, 1)]
        assert float(batch[1][0]) == 3

    @pytest.mark.parametrize("dtype", [">f4", "<i8", "uint8", "uint16", "float16"])
    def test_numbers_of_any_kind_become_the_models(self, code: str, tmp_path: Path, dtype: str) -> None:
        np.save(tmp_path / "x.npy", np.arange(8).reshape(2, 4).astype(dtype))
        inputs = load_inputs(load_model(f"{code}:mlp"), str(tmp_path / "x.npy"))
        ((tensor,),) = batches_of(inputs)
        assert torch.equal(tensor, torch.arange(8.0).reshape(2, 4))
        whole = np.dtype(dtype).kind in "iu"
        assert inputs.warnings == (
            (f"{np.dtype(dtype)} numbers given to the model as float32",) if whole else ()
        )

    @pytest.mark.parametrize(
        ("name", "count", "total", "described"),
        [("tensors", 2, None, "tensors"), ("mixed", 2, None, "mixed"), ("listed", 3, 3, "listed")],
    )
    def test_batches_from_code(
        self, code: str, name: str, count: int, total: int | None, described: str
    ) -> None:
        model = load_model(f"{code}:Two")
        inputs = load_inputs(model, f"{code}:{name}")
        assert inputs.total == total
        assert inputs.description == f"batches from {code}:{described}"
        assert len(batches_of(inputs)) == len(batches_of(inputs)) == count
        assert len(batches_of(load_inputs(model, f"{code}:{name}", limit=1))) == 1

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("failing", "failing raised KeyError: 'row 9'"),
            ("wrong", "batch 1 of .*wrong is a int; a tensor, a tuple"),
            ("nothing", "nothing yielded no batches"),
            ("none", "none returned a NoneType; something that yields batches was needed"),
            ("no_such", "has no 'no_such'; it defines"),
        ],
    )
    def test_what_code_does_wrong(self, code: str, name: str, words: str) -> None:
        model = load_model(f"{code}:mlp")
        with pytest.raises(DataError, match=words):
            batches_of(load_inputs(model, f"{code}:{name}"))

    def test_no_data_and_texts_are_refused(self, code: str, texts: str, tmp_path: Path) -> None:
        model = load_model(f"{code}:mlp")
        with pytest.raises(DataError, match=r"Sequential reads tensors that normprobe cannot guess.*--data"):
            load_inputs(model)
        with pytest.raises(DataError, match=r"holds text, and Sequential has no tokenizer .*give tensors"):
            load_inputs(model, texts)
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
        with pytest.raises(DataError, match="holds 1 image, and Sequential has no tokenizer or image"):
            load_inputs(model, str(tmp_path / "x.png"))

    def test_names_that_the_forward_lacks(self, code: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "y.npz", y=np.ones((2, 4)))
        with pytest.raises(DataError, match=r"y.npz holds y; the forward of Two takes scale, x"):
            load_inputs(load_model(f"{code}:Two"), str(tmp_path / "y.npz"))


class TestMisfits:
    def test_text_for_an_image_model_and_the_other_way(
        self, shelf: dict[str, LoadedModel], texts: str, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=r"holds text, and ViTForImageClassification reads images; give"):
            load_inputs(shelf["vit"], texts)
        with pytest.raises(DataError, match=r"holds text, and Wav2Vec2Model reads sound; give an .npy"):
            load_inputs(shelf["wav2vec2"], texts)
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
        with pytest.raises(DataError, match=r"holds 1 image, and BertModel reads text; give .txt"):
            load_inputs(shelf["bert"], str(tmp_path / "x.png"))

    def test_token_ids(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        np.save(tmp_path / "ids.npy", np.array([[2, 5, 6], [2, 7, 3]]))
        inputs = load_inputs(shelf["bert"], str(tmp_path / "ids.npy"))
        assert inputs.unit == "token"
        (batch,) = batches_of(inputs)
        assert batch["input_ids"].tolist() == [[2, 5, 6], [2, 7, 3]]
        np.save(tmp_path / "ids.npy", np.array([[2, 50]]))
        with pytest.raises(DataError, match=r"token ids from 2 to 50; BertModel knows 0 to 29"):
            load_inputs(shelf["bert"], str(tmp_path / "ids.npy"))
        np.save(tmp_path / "ids.npy", np.zeros((2, 5)))
        with pytest.raises(DataError, match=r"holds float64 of shape \(2, 5\); BertModel reads token ids"):
            load_inputs(shelf["bert"], str(tmp_path / "ids.npy"))

    def test_embeddings_and_names(self, shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
        np.save(tmp_path / "e.npy", np.zeros((2, 5, 16)))
        (batch,) = batches_of(load_inputs(shelf["bert"], str(tmp_path / "e.npy")))
        assert batch["inputs_embeds"].dtype is torch.float32
        np.savez(tmp_path / "n.npz", tokens=np.zeros((2, 5), dtype=int))
        with pytest.raises(DataError, match=r"n.npz holds tokens.* BertModel"):
            load_inputs(shelf["bert"], str(tmp_path / "n.npz"))
        np.savez(tmp_path / "p.npz", np.zeros((2, 5)), np.zeros((2, 5)))
        with pytest.raises(DataError, match="holds arrays without names; BertModel needs names"):
            load_inputs(shelf["bert"], str(tmp_path / "p.npz"))


@pytest.fixture(autouse=True)
def no_leftover_limit() -> Iterator[None]:
    """The csv module's limit is one for the whole process."""
    import csv

    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)
