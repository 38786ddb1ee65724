"""Files that torch loads: equal to what the quantizers' own collectors gather on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe.errors import NormprobeError, NoSamplesError, RecordingError
from normprobe.recording import Recording
from tests.helpers import quantizers
from tests.helpers.quantizers import collected, largest, range_of_output, sums
from tests.helpers.tiny_models import FIFTH


def written(recording: Recording, path: Path, form: str) -> dict[str, Any]:
    return torch.load(recording.export(path, form).path, weights_only=True)


class TestActScales:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_are_those_of_smoothquant_bit_by_bit(self, tmp_path: Path, dtype: torch.dtype) -> None:
        model, data = quantizers.llama(dtype), quantizers.batches()
        found = written(normprobe.record(model, data), tmp_path / "scales.pt", "act-scales")
        expected = collected(model, data, largest)
        assert list(found) == list(expected)
        for name, scales in expected.items():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], scales), name

    def test_are_without_padding(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches(padded=True)
        found = written(normprobe.record(model, data), tmp_path / "scales.pt", "act-scales")
        real, every = collected(model, data, largest, real_rows=True), collected(model, data, largest)
        assert all(torch.equal(found[name], scales) for name, scales in real.items())
        assert any(not torch.equal(found[name], scales) for name, scales in every.items())

    def test_with_padding_if_asked_for(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches(padded=True)
        found = written(normprobe.record(model, data, mask=None), tmp_path / "scales.pt", "act-scales")
        every = collected(model, data, largest)
        assert all(torch.equal(found[name], scales) for name, scales in every.items())

    def test_of_parts_are_those_of_the_whole(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches()
        parts = [normprobe.record(model, [batch], part=str(at)) for at, batch in enumerate(data)]
        normprobe.merge(*parts).save(tmp_path / "merged.normprobe")
        found = written(normprobe.load(tmp_path / "merged.normprobe"), tmp_path / "a.pt", "act-scales")
        expected = written(normprobe.record(model, data), tmp_path / "b.pt", "act-scales")
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    @pytest.mark.skipif(not FIFTH, reason="transformers 4 holds these experts in lists of modules")
    def test_of_experts_that_are_one_tensor_are_said_to_be_missing(self, tmp_path: Path) -> None:
        model, data = quantizers.mixtral(), quantizers.batches()
        export = normprobe.record(model, data).export(tmp_path / "scales.pt", "act-scales")
        found = torch.load(export.path, weights_only=True)
        expected = collected(model, data, largest)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        # Beside them routers, which are no nn.Linear but have an input that is seen.
        assert set(found) - set(expected) == {f"model.layers.{at}.mlp.gate" for at in range(2)}
        assert {name.rpartition("mlp.")[2] for name in export.left_out} == {
            "experts.gate_up_proj",
            "experts.down_proj",
        }
        assert "holds the weights of all experts" in str(export)


def test_awq_is_the_mean_of_absolute_values(tmp_path: Path) -> None:
    model, data = quantizers.llama(), quantizers.batches(padded=True)
    found = written(normprobe.record(model, data), tmp_path / "means.pt", "awq")
    expected = collected(model, data, sums, real_rows=True)
    assert list(found) == list(expected)
    for name, (_, absolute, count) in expected.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_allclose(found[name].numpy(), absolute / count, rtol=1e-6)


def test_llm_compressor_is_what_its_observers_hold(tmp_path: Path) -> None:
    model, data = quantizers.llama(), quantizers.batches()
    found = written(normprobe.record(model, data), tmp_path / "observers.pt", "llm-compressor")
    norm = type(model.model.norm)
    ranges = collected(model, data, range_of_output, types=(nn.Linear, norm))
    assert set(found) == {"smoothquant", "awq", "imatrix_mse"}
    assert set(found["smoothquant"]) == set(ranges)
    for name, (low, high) in ranges.items():
        assert torch.equal(found["smoothquant"][name]["min_channel_vals"], low)
        assert torch.equal(found["smoothquant"][name]["max_channel_vals"], high)
    expected = collected(model, data, sums)
    assert set(found["awq"]) == set(found["imatrix_mse"]) == set(expected)
    for name, (squares, absolute, count) in expected.items():
        awq, imatrix = found["awq"][name], found["imatrix_mse"][name]
        np.testing.assert_allclose(awq["mean"].numpy(), absolute / count, rtol=1e-6)
        np.testing.assert_allclose(imatrix["_imatrix_sum"].numpy(), squares, rtol=1e-6)
        assert awq["count"] == int(imatrix["_imatrix_count"]) == count == 3 * 4 * 9
        assert imatrix["_imatrix_count"].dtype == torch.int64


class Gaps(nn.Module):
    """Linear layers of which one never fires, one reads NaN, one writes Inf."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.after_nan, self.before_inf = nn.Linear(4, 4), nn.Linear(4, 4)
        with torch.no_grad():
            self.before_inf.bias[1] = torch.inf

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nan = x.clone()
        nan[0, 2] = torch.nan
        return self.used(x) + self.after_nan(nan) + self.before_inf(x)


class TestGaps:
    def test_are_left_out_and_named(self, tmp_path: Path) -> None:
        export = normprobe.record(Gaps(), torch.randn(5, 4)).export(tmp_path / "scales.pt", "act-scales")
        assert list(torch.load(export.path, weights_only=True)) == ["used", "before_inf"]
        assert export.layers == ("used", "before_inf")
        assert str(export) == (
            "act-scales of 2 of 4 Linear layers\n"
            "1 of 4 Linear layers did not fire: not in the file (unused)\n"
            "1 of 4 Linear layers read NaN or Inf: not in the file (after_nan)"
        )

    def test_of_outputs_are_gaps_of_llm_compressor_alone(self, tmp_path: Path) -> None:
        export = normprobe.record(Gaps(), torch.randn(5, 4)).export(tmp_path / "x.pt", "llm-compressor")
        found = torch.load(export.path, weights_only=True)
        assert [list(part) for part in found.values()] == [["used"]] * 3
        assert export.left_out["before_inf"] == "wrote NaN or Inf"
        assert str(export).startswith("llm-compressor of 1 of 4 layers\n")

    def test_many_names_are_counted(self, tmp_path: Path) -> None:
        model = nn.ModuleDict({name: nn.Linear(2, 2) for name in "abcdef"})
        model.forward = model["a"].forward  # type: ignore[assignment]
        with normprobe.Probe(model) as probe:
            model["a"](torch.randn(3, 2))
        said = str(probe.recording.export(tmp_path / "x.pt", "awq"))
        assert said.endswith("5 of 6 Linear layers did not fire: not in the file (b, c, d and 2 more)")

    def test_layers_without_a_mask_are_named_where_there_is_padding(self, tmp_path: Path) -> None:
        recording = normprobe.record(quantizers.Qwen2MoeForCausalLM(), quantizers.batches(padded=True))
        export = recording.export(tmp_path / "x.pt", "act-scales")
        experts = [f"model.layers.{block}.mlp.experts.{expert}" for block in range(2) for expert in range(3)]
        assert export.unmasked == tuple(f"{name}.{part}_proj" for name in experts for part in ("up", "down"))
        assert "12 of 18 Linear layers had no mask: padding that they read is in their numbers" in str(export)
        whole = normprobe.record(quantizers.Qwen2MoeForCausalLM(), quantizers.batches())
        assert not whole.export(tmp_path / "x.pt", "act-scales").unmasked


class TestErrors:
    def test_a_format_that_is_none(self, tmp_path: Path) -> None:
        recording = normprobe.record(nn.Linear(2, 2), torch.ones(1, 2))
        with pytest.raises(NormprobeError, match=r"one of act-scales, .*imatrix-dat, got 'gptq'$"):
            recording.export(tmp_path / "x", "gptq")
        with pytest.raises(NormprobeError, match=r"got 'csv'; for a folder of tables call to_csv$"):
            recording.export(tmp_path / "x", "csv")

    def test_no_linear_layer(self, tmp_path: Path) -> None:
        recording = normprobe.record(nn.LayerNorm(2), torch.randn(3, 2))
        with pytest.raises(RecordingError, match=r"no Linear layer, and awq is of their inputs; measure"):
            recording.export(tmp_path / "x", "awq")

    def test_nothing_was_measured(self, tmp_path: Path) -> None:
        with pytest.warns(normprobe.NormprobeWarning), normprobe.Probe(nn.Linear(2, 2)) as probe:
            pass
        with pytest.raises(NoSamplesError, match="none of the 1 layers of Linear fired"):
            probe.recording.export(tmp_path / "x", "awq")

    def test_no_layer_can_be_in_the_file(self, tmp_path: Path) -> None:
        recording = normprobe.record(nn.Linear(2, 2), torch.tensor([[1.0, torch.nan]]))
        with pytest.raises(RecordingError, match=r"no layer can be in the file: .* read NaN or Inf"):
            recording.export(tmp_path / "x", "awq")
        assert not list(tmp_path.iterdir())

    def test_numbers_beyond_float32(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(2, 2)).double()
        recording = normprobe.record(model, torch.tensor([[1.0, 1e300]], dtype=torch.float64))
        with pytest.raises(RecordingError, match=r"^'0' has numbers beyond float32"):
            recording.export(tmp_path / "x", "act-scales")

    def test_a_path_that_cannot_be_written(self, tmp_path: Path) -> None:
        recording = normprobe.record(nn.Linear(2, 2), torch.ones(1, 2))
        with pytest.raises(RecordingError, match="it is a folder"):
            recording.export(tmp_path, "awq")
