"""Options of another type say what is needed; masks and labels may be given as what people have at hand."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import NormprobeError

TEXTS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
REAL = torch.tensor([5, 2, 3]).unsqueeze(1) > torch.arange(5)


class Masked(nn.Module):
    """A model whose mask has a name that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor, tokens_there: Any = None, how_many: Any = None) -> Any:
        return self.norm(self.linear(x))


def features(recording: normprobe.Recording) -> pd.DataFrame:
    return recording.features.drop(columns="layer")


def expected() -> pd.DataFrame:
    """What a mask as a function gives."""
    return features(normprobe.record(Masked(), TEXTS, mask=lambda args, kwargs: REAL, part="a"))


@pytest.mark.parametrize("form", [torch.bool, torch.int64, torch.float32], ids=str)
def test_a_mask_is_found_by_the_name_of_its_argument(form: torch.dtype) -> None:
    batch = {"x": TEXTS, "tokens_there": REAL.to(form)}
    recording = normprobe.record(Masked(), batch, mask="tokens_there", part="a")
    pd.testing.assert_frame_equal(features(recording), expected())
    assert recording.meta["options"]["mask"] == "tokens_there"
    assert set(recording.ledger["masked_by"]) == {"tokens_there"}
    assert recording.meta["padding"] == 5


def test_the_mask_of_each_forward_is_its_own() -> None:
    batches = [{"x": TEXTS[i : i + 1], "tokens_there": REAL[i : i + 1]} for i in range(3)]
    recording = normprobe.record(Masked(), batches, mask="tokens_there", part="a")
    count = recording.features["count"]
    assert set(count) == {10}
    every = normprobe.record(Masked(), batches, mask="tokens_there", part="a", every=2)
    assert set(every.features["count"]) == {8}
    assert set(every.samples["example"]) == {0, 2}


def test_lengths_are_found_by_name() -> None:
    batch = {"x": TEXTS, "how_many": REAL.sum(1)}
    recording = normprobe.record(Masked(), batch, mask="how_many", part="a")
    pd.testing.assert_frame_equal(features(recording), expected())


def test_torchs_inverted_mask_is_read_as_torch_means_it() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), 1, enable_nested_tensor=False
    )
    batch = {"src": TEXTS, "src_key_padding_mask": ~REAL}
    named = normprobe.record(encoder, batch, mask="src_key_padding_mask", part="a")
    found = normprobe.record(encoder, batch, part="a")
    assert named.meta["padding"] == found.meta["padding"] == 5
    pd.testing.assert_frame_equal(named.features, found.features)


def test_a_forward_without_the_mask_is_said() -> None:
    with pytest.raises(NormprobeError, match=r"mask='tokens_their' .*; did you mean tokens_there\?"):
        normprobe.Probe(Masked(), mask="tokens_their")
    recording = normprobe.record(Masked(), [{"x": TEXTS}], mask="tokens_there")
    (said,) = recording.meta["warnings"]
    assert "a forward was measured without a mask" in said
    assert "mask='tokens_there' is no argument that it was given; it was given x" in said
    assert recording.meta["padding"] == 0


def test_an_argument_that_is_no_mask_is_an_error() -> None:
    with pytest.raises(NormprobeError, match=r"the argument 'how_many' of shape \(3,\) reads as no mask"):
        normprobe.record(Masked(), {"x": TEXTS, "how_many": torch.tensor([9, 9, 9])}, mask="how_many")


def test_a_tensor_is_the_mask_of_a_single_batch() -> None:
    recording = normprobe.record(Masked(), TEXTS, mask=REAL, part="a")
    pd.testing.assert_frame_equal(features(recording), expected())
    assert recording.meta["options"]["mask"] == "tensor"
    with pytest.raises(NormprobeError, match="mask is one tensor, of one batch, and this is another"):
        normprobe.record(Masked(), [TEXTS, TEXTS], mask=REAL)
    with pytest.raises(
        NormprobeError, match=r"mask of shape \(2, 5\) is not of a batch of shape \(3, 5, 6\)"
    ):
        normprobe.record(Masked(), TEXTS, mask=REAL[:2])
    with pytest.raises(NormprobeError, match=r"must be a bool tensor .batch, positions"):
        normprobe.record(Masked(), TEXTS, mask=REAL.unsqueeze(1))


def labels_of(recording: normprobe.Recording) -> dict[tuple[int, int], str]:
    table = recording.labels
    return {
        (int(e), int(p)): str(t)
        for e, p, t in zip(table["example"], table["position"], table["text"], strict=True)
    }


def test_a_list_of_texts_names_the_examples_of_all_batches() -> None:
    recording = normprobe.record(Masked(), list(TEXTS.split(2)), labels=["a", "b", "c"])
    assert labels_of(recording) == {(e, p): "abc"[e] for e in range(3) for p in range(5)}
    images = nn.BatchNorm2d(2).eval()
    recording = normprobe.record(images, torch.randn(3, 2, 4, 4), labels=("a", "b", "c"))
    assert labels_of(recording) == {(0, 0): "a", (1, 0): "b", (2, 0): "c"}


def test_a_list_of_lists_names_the_positions_without_padding() -> None:
    words = [[f"{e}.{p}" for p in range(5)] for e in range(3)]
    recording = normprobe.record(Masked(), TEXTS, labels=words)
    assert labels_of(recording) == {(e, p): f"{e}.{p}" for e in range(3) for p in range(5)}
    left = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]).bool()
    masked = normprobe.record(Masked(), TEXTS, labels=words, mask=left)
    assert labels_of(masked)[0, 0] == "0.2"
    assert len(labels_of(masked)) == 12
    one_each = normprobe.record(Masked(), TEXTS, labels=["a", "b", "c"], mask=left)
    assert len(labels_of(one_each)) == 12
    assert labels_of(one_each)[2, 3] == "c"


def test_the_same_texts_as_a_function_gives() -> None:
    words = [[f"{e}.{p}" for p in range(5)] for e in range(3)]
    listed = normprobe.record(Masked(), TEXTS, labels=words, part="a")
    called = normprobe.record(Masked(), TEXTS, labels=lambda args, kwargs: words, part="a")
    pd.testing.assert_frame_equal(listed.labels, called.labels)


def test_too_few_labels_say_for_whom_there_is_none() -> None:
    with pytest.raises(
        NormprobeError, match="labels has 2 entries, one an example; there is none for example 2"
    ):
        normprobe.record(Masked(), list(TEXTS.split(2)), labels=["a", "b"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "abc"}, "labels must be a list of str, one an example, .*; got str"),
        ({"labels": [1, 2]}, "labels must be .*; got list"),
        ({"labels": [["a"], [3]]}, "labels must be .*; got list"),
        ({"mask": 3}, 'mask must be "auto", None, the name of an argument, .*, got int'),
        ({"samples": "some"}, 'samples must be a whole number of at least 0 or "all"'),
        ({"mode": "training"}, "mode must be 'eval' or 'train', got 'training'"),
        ({"progress": "yes"}, "progress must be True for a bar, or a function .*; got str"),
    ],
)
def test_other_types_are_refused_in_words(options: dict[str, Any], says: str) -> None:
    model = Masked().train()
    with pytest.raises(NormprobeError, match=says):
        normprobe.record(model, TEXTS, **options)
    assert model.training


def test_options_by_position_say_that_they_go_by_name() -> None:
    with pytest.raises(
        NormprobeError, match=r"^Probe takes the model by position and its options by name, .*; got 1 more"
    ):
        normprobe.Probe(Masked(), ["linear"])  # type: ignore[misc]
    with pytest.raises(NormprobeError, match="record takes the model and the batches by position"):
        normprobe.record(Masked(), TEXTS, "linear")  # type: ignore[misc]
    # Editors and documentation see the function itself.
    assert list(inspect.signature(normprobe.record).parameters)[:3] == ["model", "batches", "mode"]
    assert list(inspect.signature(normprobe.Probe).parameters)[:2] == ["model", "layers"]


def test_values_of_a_name_that_is_not_there_say_which_are_close() -> None:
    recording = normprobe.record(Masked(), TEXTS)
    with pytest.raises(normprobe.NoSamplesError, match=r"its ledger names 2 layers; close names: linear"):
        recording.values("linaer", "input")
    with pytest.raises(normprobe.NoSamplesError, match=r"its ledger names 2 layers$"):
        recording.values("zzz", "input")
    deep = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    deep[0].add_module("up_proj", nn.Linear(4, 4))
    # The end of a name, which is no near miss of the whole.
    with pytest.raises(
        normprobe.NoSamplesError, match=r"its ledger names 3 layers; close names: 0\.up_proj$"
    ):
        normprobe.record(deep, torch.randn(5, 4)).values("up_proj", "input")


def test_the_dtype_of_a_configuration_is_read_without_a_deprecated_attribute() -> None:
    class Configuration:
        """As in transformers: reading the old name warns."""

        def __init__(self, **stored: object) -> None:
            vars(self).update(stored)

    class Newer(Configuration):
        """With a property in place of the old name."""

        @property
        def torch_dtype(self) -> object:
            """The old name."""
            raise AssertionError("`torch_dtype` is deprecated")

    for config, meant in (
        (Newer(dtype=torch.float16), "float16"),
        (Newer(dtype=None), None),
        (Configuration(torch_dtype=torch.bfloat16), "bfloat16"),
    ):
        model = nn.Linear(4, 2)
        model.config = config  # type: ignore[assignment]
        assert normprobe.record(model, torch.randn(3, 4)).meta["meant_dtype"] == meant


@pytest.mark.parametrize("door", ["record", "recalibrate", "compare_live"])
def test_progress_true_shows_a_bar_on_a_terminal(
    door: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stream for a terminal
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    batches = list(torch.randn(8, 6).split(4))
    calls: dict[str, Any] = {
        "record": lambda progress: normprobe.record(model, batches, progress=progress),
        "recalibrate": lambda progress: normprobe.batchnorm.recalibrate(model, batches, progress=progress),
        "compare_live": lambda progress: normprobe.compare_live(model, model, batches, progress=progress),
    }
    calls[door](True)
    shown = capsys.readouterr()
    assert "Batches" in shown.err
    assert shown.out == ""
    done: list[int] = []
    for progress in (False, None, done.append):
        calls[door](progress)
    assert done == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_bar_writes_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    normprobe.record(Masked(), iter([TEXTS]), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ""


class Noisy(nn.Module):
    """A model with all that training mode changes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))
        self.norm.momentum = 0.5

    def forward(self, x: Tensor) -> Any:
        return self.head(self.drop(self.norm(self.linear(x))))


def test_training_mode_measures_with_the_batch_and_leaves_the_model_as_found() -> None:
    model, x = Noisy().eval(), torch.randn(40, 6) * 3 + 1
    model.drop.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in model.named_buffers()}
    random = torch.random.get_rng_state()
    recording = normprobe.record(model, list(x.split(20)), mode="train")
    assert torch.equal(random, torch.random.get_rng_state())
    assert {name: value.data_ptr() for name, value in model.named_buffers()} == addresses
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in (model, model.norm, model.drop)] == [False, False, True]
    after = recording.features[
        (recording.features["layer"] == "norm") & (recording.features["site"] == "output")
    ]
    # Each batch has its own mean and variance taken out: what is left has variance 1, but for eps.
    np.testing.assert_allclose(after["variance"], 1, atol=1e-3)
    np.testing.assert_allclose(after["mean"], 0, atol=1e-6)
    ledger = recording.ledger.set_index("layer")
    assert ledger.loc["norm", "training"] == "train"
    assert ledger.loc["norm", "statistics"] == "batch"
    assert set(ledger["grad"]) == {"no_grad"}
    assert recording.meta["mode"] == "train"
    # Of the model as it is, not as the forwards moved it.
    of_model = recording["norm"].features.query("site == 'input'")
    np.testing.assert_array_equal(of_model["running_var"], state["norm.running_var"].numpy())
    np.testing.assert_array_equal(of_model["running_mean"], state["norm.running_mean"].numpy())
    assert ledger.loc["norm", "num_batches_tracked"] == state["norm.num_batches_tracked"]
    assert "batchnorm_train_mode" not in set(recording.findings()["check"])
    read = normprobe.record(model, list(x.split(20)))
    assert "running" not in normprobe.compare(read, recording).verdict
    assert read.ledger.set_index("layer").loc["norm", "statistics"] == "running"
    assert "mode" not in read.meta


def test_training_mode_draws_as_the_bare_model_would() -> None:
    model, x = Noisy(), torch.randn(40, 6)
    torch.manual_seed(7)
    first = normprobe.record(model, x, mode="train", part="a")
    torch.manual_seed(7)
    second = normprobe.record(model, x, mode="train", part="a")
    pd.testing.assert_frame_equal(first.features, second.features)


def test_training_mode_on_one_example_says_what_to_do() -> None:
    model = Noisy()
    with pytest.raises(
        NormprobeError, match=r"read a single value per channel .*; use batches of more examples"
    ):
        normprobe.record(model, torch.randn(1, 6), mode="train")
    assert model.training


def test_training_mode_is_left_after_an_error() -> None:
    model = Noisy().eval()
    before = model.norm.running_mean.clone()
    with pytest.raises(NormprobeError, match="cannot be called"):
        normprobe.record(model, [torch.randn(4, 6), {"y": 3}], mode="train")
    assert not model.training
    assert torch.equal(model.norm.running_mean, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: normprobe.Probe(model, sample=5),
            r"Probe\(\) got an unexpected .* 'sample'; did you mean samples\?",
        ),
        (
            lambda model: normprobe.record(model, [torch.randn(4, 8)], layer="0"),
            r"Probe\(\) got an unexpected .* 'layer'; did you mean layers\?",
        ),
        (
            lambda model: normprobe.Probe(model).recording.outliers(time=5),
            r"Recording.outliers\(\) got .* 'time'; did you mean times\?",
        ),
        (
            lambda model: normprobe.Probe(model).recording.report(xyz=5),
            r"Recording.report\(\) got .* 'xyz'; it takes panels, tables, checks$",
        ),
    ],
)
def test_a_misspelt_argument_is_a_type_error_with_the_one_that_may_be_meant(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        call(nn.Linear(8, 4))
