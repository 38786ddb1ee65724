"""Weights in new files: what is read back, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import normprobe
from normprobe.loading.models import save_weights


def tied() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    return model


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
def test_what_is_written_is_read_back_tied_weights_included(tmp_path: Path, name: str) -> None:
    path = save_weights(tied(), tmp_path / name)
    read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    expected = tied().state_dict()
    assert set(read) == set(expected)
    assert all(torch.equal(read[key], value) for key, value in expected.items())
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(normprobe.ModelError, match=r"a\.safetensors exists"):
        save_weights(tied(), path)
    assert path.read_text() == "mine"


def test_endings_and_folders_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(normprobe.ModelError, match=r"\.onnx has none of the endings \.safetensors"):
        save_weights(tied(), tmp_path / "a.onnx")
    with pytest.raises(normprobe.ModelError, match="cannot be written"):
        save_weights(tied(), tmp_path / "nowhere" / "a.pt")
