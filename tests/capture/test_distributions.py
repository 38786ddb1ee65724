"""Kurtosis and quantiles of a real model through the public interface, by either kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

import normprobe
from normprobe.errors import NormprobeError, NoSamplesError, RecordingError
from normprobe.kernels import dispatch
from normprobe.recording import Recording

BOTH: dict[str, Any] = {"kurtosis": True, "quantiles": True, "samples": "all", "values": 0}
SHARES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
PERCENTS = [f"p{100 * share:g}" for share in SHARES]


@pytest.fixture(params=["torch", "c"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Either kernel, where it is built."""
    dispatch.compiled.cache_clear()
    if request.param == "torch":
        monkeypatch.setenv("NORMPROBE_KERNEL", "torch")
    elif dispatch.compiled() is None:
        pytest.skip("the C kernel is not built here, or not asked for")
    yield request.param
    monkeypatch.undo()
    dispatch.compiled.cache_clear()


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, vocab_size=50
    )
    return BertModel(config).eval()


def text(size: int = 6, seed: int = 0) -> list[dict[str, Tensor]]:
    """Batches of texts of unlike length."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(3):
        mask = (torch.arange(12) < torch.randint(3, 13, (size, 1), generator=generator)).long()
        batches.append(
            {"input_ids": torch.randint(50, (size, 12), generator=generator), "attention_mask": mask}
        )
    return batches


def seen(model: nn.Module, batches: list[dict[str, Tensor]], layer: str) -> Tensor:
    """What a layer writes at real positions, as hooks of torch see it; (rows, features), float64."""
    rows: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: rows.append(out.detach()))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    masks = [batch["attention_mask"].bool() for batch in batches]
    return torch.cat([out[mask] for out, mask in zip(rows, masks, strict=True)]).double()


def kurtosis(values: Tensor, axis: int) -> Any:
    off = values - values.mean(axis, keepdim=True)
    return (off.pow(4).mean(axis) / off.pow(2).mean(axis) ** 2).numpy()


def at(frame: pd.DataFrame, layer: str) -> pd.DataFrame:
    return frame[(frame["layer"] == layer) & (frame["site"] == "output")]


LAYER = "encoder.layer.1.output.LayerNorm"


@pytest.mark.usefixtures("kernel")
class TestOfBert:
    """Padding is left out, and every number is in."""

    @pytest.mark.parametrize("layer", [LAYER, "encoder.layer.0.intermediate.dense"])
    def test_numbers_are_those_of_numpy(self, layer: str) -> None:
        model, batches = bert(), text()
        recording, rows = normprobe.record(model, batches, **BOTH), seen(model, batches, layer)
        np.testing.assert_allclose(
            at(recording.layers, layer)["kurtosis"], kurtosis(rows.reshape(1, -1), 1), 1e-5
        )
        np.testing.assert_allclose(at(recording.features, layer)["kurtosis"], kurtosis(rows, 0), rtol=1e-5)
        samples = at(recording.samples, layer).sort_values(["example", "position"])
        np.testing.assert_allclose(samples["kurtosis"], kurtosis(rows, 1), rtol=1e-5)
        found = at(recording.quantiles, layer).iloc[0]
        assert found["count"] == rows.numel()
        exact = np.quantile(rows.numpy(), SHARES, method="inverted_cdf")
        assert (np.abs(found[PERCENTS].to_numpy(float) - exact) <= found["bound"] * np.abs(exact)).all()
        counts, edges = recording.histogram(layer, "output")
        np.testing.assert_array_equal(counts, np.histogram(rows.float().numpy(), edges)[0])

    def test_more_padding_changes_nothing(self) -> None:
        model, batches = bert(), text()
        padded = [{name: nn.functional.pad(ids, (0, 9)) for name, ids in batch.items()} for batch in batches]
        one, other = (normprobe.record(model.double(), given, **BOTH) for given in (batches, padded))
        pd.testing.assert_frame_equal(one.quantiles, other.quantiles, rtol=1e-6)
        for table in ("layers", "features", "samples"):
            found, expected = getattr(other, table)["kurtosis"], getattr(one, table)["kurtosis"]
            np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_parts_merge_to_the_whole_and_files_hold_it(self, tmp_path: Path) -> None:
        model, batches = bert(), text()
        whole = normprobe.record(model, batches, **BOTH, part="all")
        parts = [normprobe.record(model, [batch], **BOTH, part=str(i)) for i, batch in enumerate(batches)]
        for i, part in enumerate(parts):
            part.save(tmp_path / f"{i}.normprobe")
        merged = normprobe.merge(*(normprobe.load(tmp_path / f"{i}.normprobe") for i in (2, 0, 1)))
        assert merged.tables.bin_counts.equals(whole.tables.bin_counts)
        pd.testing.assert_frame_equal(merged.quantiles, whole.quantiles, rtol=1e-12)
        for table in ("layers", "features"):
            np.testing.assert_allclose(
                getattr(merged, table)["kurtosis"], getattr(whole, table)["kurtosis"], rtol=1e-6
            )
        for i, part in enumerate(parts):
            assert_alike(normprobe.load(tmp_path / f"{i}.normprobe"), part)

    def test_windows_of_phases_have_their_own_and_merge(self) -> None:
        model, batches = bert(), text()
        with normprobe.Probe(model, **BOTH, window=1) as probe, torch.no_grad():
            for batch in batches[:2]:
                model(**batch)
            with probe.phase("other"):
                model(**batches[2])
        recording = probe.recording
        alone = normprobe.record(model, batches[2:], **BOTH)
        of_phase = recording.window(int(recording.windows.query("phase == 'other'")["window"].iloc[0]))
        pd.testing.assert_frame_equal(of_phase.quantiles, alone.quantiles)
        rows = seen(model, batches, LAYER)
        np.testing.assert_allclose(
            at(recording.layers, LAYER)["kurtosis"], kurtosis(rows.reshape(1, -1), 1), 1e-5
        )
        over_time = recording.over_time("quantiles")
        assert set(over_time["phase"]) == {"eval", "other"}
        assert at(over_time, LAYER)["count"].sum() == rows.numel()

    def test_gradients_have_a_distribution_too(self) -> None:
        model, batches = bert(), text()
        rows: list[Tensor] = []
        with normprobe.Probe(model, gradients=True, **BOTH) as probe:
            for batch in batches:
                hidden = model(**batch).last_hidden_state
                hidden.register_hook(rows.append)
                (hidden.pow(3).mean(-1) * batch["attention_mask"]).sum().backward()
        real = [batch["attention_mask"].bool() for batch in batches]
        gradients = torch.cat([row[mask] for row, mask in zip(rows, real, strict=True)]).double()
        layers = probe.recording.layers.set_index(["layer", "site"])
        found = layers.loc[(LAYER, "output_gradient"), "kurtosis"]
        assert found == pytest.approx(float(kurtosis(gradients.reshape(1, -1), 1)[0]), rel=1e-5)
        assert "output_gradient" in set(probe.recording.quantiles["site"])
        assert "output_gradient" not in set(probe.recording.tables.activations.quantiles["site"])


def assert_alike(found: Recording, expected: Recording) -> None:
    for table in ("layers", "features", "samples", "quantiles"):
        pd.testing.assert_frame_equal(getattr(found, table), getattr(expected, table))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_have_a_distribution_too(channels_last: bool) -> None:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    model, images = ResNetModel(ResNetConfig(**sizes)).eval(), torch.randn(5, 3, 64, 64)
    if channels_last:
        model, images = (
            model.to(memory_format=torch.channels_last),
            images.contiguous(memory_format=torch.channels_last),
        )
    recording = normprobe.record(model, [images[:3], images[3:]], **BOTH)
    rows: list[Tensor] = []
    layer = "embedder.embedder.normalization"
    model.get_submodule(layer).register_forward_hook(lambda m, a, out: rows.append(out.detach().double()))
    with torch.no_grad():
        model(images[:3]), model(images[3:])
    every = torch.cat(rows)
    features = at(recording.features, layer)["kurtosis"]
    np.testing.assert_allclose(features, kurtosis(every.transpose(0, 1).flatten(1), 1), rtol=1e-5)
    samples = at(recording.samples, layer).sort_values("example")["kurtosis"]
    np.testing.assert_allclose(samples, kurtosis(every.flatten(1), 1), rtol=1e-5)
    assert at(recording.quantiles, layer)["count"].tolist() == [every.numel()]


@pytest.mark.usefixtures("kernel")
def test_outputs_are_those_of_the_bare_model_and_nothing_stays() -> None:
    model, batch = bert(), text()[0]
    bare = model(**batch).last_hidden_state
    with normprobe.Probe(model, **BOTH):
        probed = model(**batch).last_hidden_state
    assert torch.equal(bare, probed)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_was_not_asked_for_is_not_there() -> None:
    model, batches = bert(), text()
    plain = normprobe.record(model, batches)
    for table in ("layers", "features", "samples"):
        assert "kurtosis" not in getattr(plain, table)
    assert plain.quantiles.empty
    assert list(plain.quantiles)[:3] == ["layer", "kind", "site"]
    with pytest.raises(NoSamplesError, match=r"no numbers of .* are counted; probe with quantiles=True"):
        plain.histogram(LAYER, "output")
    only = normprobe.record(model, batches, kurtosis=True)
    assert only.quantiles.empty
    assert only.layers["kurtosis"].notna().all()
    counted = normprobe.record(model, batches, quantiles=True)
    assert "kurtosis" not in counted.layers
    assert len(counted.quantiles) == len(counted.layers)
    moments = [name for name in plain.layers if name not in ("min_part", "max_part")]
    pd.testing.assert_frame_equal(counted.layers[moments], plain.layers[moments], rtol=1e-9)


def test_what_has_it_and_what_has_not_cannot_be_merged() -> None:
    model, batches = bert(), text()
    a, b = (normprobe.record(model, batches, kurtosis=on, part=str(on)) for on in (True, False))
    with pytest.raises(RecordingError, match="with kurtosis and without cannot be merged"):
        normprobe.merge(a, b)


@pytest.mark.parametrize("name", ["kurtosis", "quantiles"])
def test_an_option_is_true_or_false(name: str) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(NormprobeError, match=f"{name} must be True or False, got 1"):
        normprobe.Probe(bert(), **options)


@pytest.mark.parametrize("name", ["kurtosis", "quantiles"])
def test_groups_take_a_probe_of_their_own(name: str) -> None:
    options: dict[str, Any] = {name: True}
    with pytest.raises(NormprobeError, match="groups cannot be measured together with kurtosis or quantiles"):
        normprobe.Probe(bert(), groups="first", **options)
