"""Images inside prompts: what a chat model with eyes is given, by its own processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import normprobe
from normprobe.errors import DataError
from normprobe.loading.inputs import load_inputs
from normprobe.loading.inputs.image_prompts import PROMPTS
from normprobe.loading.models import LoadedModel, load_model
from tests.helpers import checkpoints

IMAGE = 25
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} "
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}dog{% endif %}"
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """The same tiny model with and without a chat template, padded on either side, and without processor."""
    root = tmp_path_factory.mktemp("shelf")
    made = {
        "plain": checkpoints.llava(root / "plain"),
        "right": checkpoints.llava(root / "right", side="right"),
        "chat": checkpoints.llava(root / "chat", TEMPLATE),
        "bare": checkpoints.llava(root / "bare", processor=False),
    }
    return {name: load_model(folder) for name, folder in made.items()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    dice = np.random.default_rng(0)
    for index, mode in enumerate(["RGB", "L", "RGB"]):
        shape = (30 + index, 40, 3) if mode == "RGB" else (30, 40)
        Image.fromarray(dice.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def write_chat(folder: Path, *messages: dict[str, Any]) -> str:
    (folder / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    return str(folder / "chat.jsonl")


def length(row: torch.Tensor) -> int:
    return int((row == IMAGE).sum())


@pytest.mark.parametrize("kind", ["plain", "right", "chat"])
def test_batches_are_those_of_the_models_own_processor(
    shelf: dict[str, LoadedModel], photos: Path, kind: str
) -> None:
    model = shelf[kind]
    inputs = load_inputs(model, str(photos))
    assert inputs.description == "3 images from photos/, each in a short prompt"
    assert (inputs.total, inputs.unit, inputs.example_unit) == (1, "token", "image")
    (batch,) = inputs.batches
    processor = transformers.AutoProcessor.from_pretrained(model.source)
    around = ("user ", " dog") if kind == "chat" else ("", "")
    texts = [f"{around[0]}<image>{prompt}{around[1]}" for prompt in PROMPTS[:3]]
    opened = [Image.open(file).convert("RGB") for file in sorted(photos.iterdir())]
    expected = processor(images=opened, text=texts, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert [length(row) for row in batch["input_ids"]] == [16, 16, 16]
    padded = batch["attention_mask"][:, 0] == 0 if kind != "right" else batch["attention_mask"][:, -1] == 0
    assert padded.any()


def test_an_image_is_read_and_padding_is_not(shelf: dict[str, LoadedModel], photos: Path) -> None:
    inputs = load_inputs(shelf["plain"], str(photos))
    (batch,) = inputs.batches
    one_by_one = list(load_inputs(shelf["plain"], str(photos), batch_size=1).batches)
    assert [int(alone["attention_mask"].sum()) for alone in one_by_one] == batch["attention_mask"].sum(
        1
    ).tolist()
    together = normprobe.record(shelf["plain"].module, [batch]).layers
    apart = normprobe.record(shelf["plain"].module, one_by_one).layers
    assert list(together["layer"]) == list(apart["layer"])
    norms = together["layer"].str.contains("language_model.*norm")
    assert norms.any()
    assert together["layer"].str.contains("vision_tower").any()
    assert (together["n_samples"] == apart["n_samples"]).all()
    assert np.allclose(together["mean"], apart["mean"], rtol=0, atol=1e-5)
    assert np.allclose(together["variance"], apart["variance"], rtol=1e-4)
    assert (together["masked"][norms] == int((batch["attention_mask"] == 0).sum())).all()


def test_without_data_the_images_that_ship_are_shown(shelf: dict[str, LoadedModel]) -> None:
    inputs = load_inputs(shelf["chat"], limit=5, batch_size=2)
    assert inputs.description == ("5 images from the set that ships with normprobe, each in a short prompt")
    sizes = [len(batch["pixel_values"]) for batch in inputs.batches]
    assert sizes == [2, 2, 1]


def test_arrays_of_pixels_are_images(shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 20, 24, 3), dtype=np.uint8))
    (batch,) = load_inputs(shelf["plain"], str(tmp_path / "x.npy")).batches
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    np.save(tmp_path / "ids.npy", np.full((2, 4), 7))
    (batch,) = load_inputs(shelf["plain"], str(tmp_path / "ids.npy")).batches
    assert set(batch) == {"input_ids"}


def test_texts_and_their_labels(shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("the cat sat\na dog\n")
    inputs = load_inputs(shelf["plain"], str(tmp_path / "x.txt"))
    assert inputs.description == "2 texts from x.txt"
    (batch,) = inputs.batches
    assert inputs.labels is not None
    assert inputs.labels((), batch) == [["the", "cat", "sat"], ["[PAD]", "a", "dog"]]
    with torch.no_grad():
        shelf["plain"].module(**batch)


@pytest.mark.parametrize("content", ["cat sat", [{"type": "text", "text": "cat sat"}]])
def test_messages_keep_their_text(shelf: dict[str, LoadedModel], tmp_path: Path, content: Any) -> None:
    """A template that looks for parts of a type writes nothing of a content that is a plain string."""
    data = write_chat(tmp_path, {"role": "the", "content": content}, {"role": "a", "content": "dog ran"})
    inputs = load_inputs(shelf["chat"], data)
    (batch,) = inputs.batches
    assert inputs.labels is not None
    assert inputs.labels((), batch) == [["the", "cat", "sat", "a", "dog", "ran"]]


def test_a_template_for_plain_contents_gets_them(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    model = load_model(checkpoints.llava(tmp_path / "m", plain))
    inputs = load_inputs(model, write_chat(tmp_path, {"role": "a", "content": "cat sat"}))
    (batch,) = inputs.batches
    assert batch["input_ids"].tolist() == [[7, 9]]
    with pytest.raises(DataError, match=r"the chat template of .* refuses an image with a prompt: TypeError"):
        next(iter(load_inputs(model).batches))


def test_messages_with_images_are_refused(shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
    part = {"type": "image", "url": "http://localhost/x.png"}
    data = write_chat(tmp_path, {"role": "a", "content": [part]})
    with pytest.raises(DataError, match=r"chat.jsonl, row 1 holds a message with a part of type 'image'; "):
        load_inputs(shelf["chat"], data)


def test_messages_without_a_template(shelf: dict[str, LoadedModel], tmp_path: Path) -> None:
    data = write_chat(tmp_path, {"role": "a", "content": "cat"})
    with pytest.raises(DataError, match="the model's tokenizer has no chat template"):
        load_inputs(shelf["plain"], data)


def test_without_a_processor(shelf: dict[str, LoadedModel], photos: Path) -> None:
    with pytest.raises(
        DataError, match=r"has no processor with a tokenizer and an image processor.*or give texts$"
    ):
        load_inputs(shelf["bare"], str(photos))


def test_only_a_part_of_a_processor(
    shelf: dict[str, LoadedModel], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers gives out a tokenizer or an image processor in the place of a whole processor."""
    part = checkpoints.words_tokenizer()
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *args, **kwargs: part)
    with pytest.raises(DataError, match="has no processor with a tokenizer and an image processor"):
        load_inputs(shelf["plain"], str(photos))


def test_without_a_padding_token_the_end_token_stands_in(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoints.llava(tmp_path / "m"))
    whole = transformers.AutoProcessor.from_pretrained(model.source)
    whole.tokenizer.pad_token = None
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *args, **kwargs: whole)
    (batch,) = load_inputs(model, str(photos)).batches
    hidden = batch["attention_mask"] == 0
    assert hidden.any()
    assert (batch["input_ids"][hidden] == 4).all()


def test_a_processor_of_another_model(tmp_path: Path, photos: Path) -> None:
    """The model would take the image tokens for words, and say nothing."""
    model = load_model(checkpoints.llava(tmp_path / "m"))
    model.config.image_token_id = 29
    with pytest.raises(DataError, match=r"of \S+ puts no image into the text \(token 29 was needed\); "):
        list(load_inputs(model, str(photos)).batches)


def test_a_template_that_leaves_out_the_image(tmp_path: Path, photos: Path) -> None:
    model = load_model(checkpoints.llava(tmp_path / "m", "the cat"))
    with pytest.raises(DataError, match=r"(puts no image into the text|refuses it)") as caught:
        next(iter(load_inputs(model, str(photos)).batches))
    assert "\n" not in str(caught.value)


def test_a_processor_that_needs_torchvision(
    shelf: dict[str, LoadedModel], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ImportError("\nX requires the Torchvision library but it was not found.\nCheckout ...")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(DataError, match=r"cannot be loaded: it needs torchvision; install it; give tensors"):
        load_inputs(shelf["plain"], str(photos))
