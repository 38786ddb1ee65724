"""The importance matrix of llama.cpp: read back by its own reader, equal to what its collector gathers."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe.errors import RecordingError
from tests.helpers import expert_models, quantizers
from tests.helpers.expert_oracle import expert_rows
from tests.helpers.quantizers import collected, sums
from tests.helpers.tiny_models import FIFTH

# Names as llama.cpp has them, written out: the map that makes them is not asked.
OF_LLAMA = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {
    f"model.layers.{block}.{layer}": f"blk.{block}.{name}.weight"
    for block in range(2)
    for layer, name in OF_LLAMA.items()
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keys and tensors, as gguf's reader gives them; each tensor float32."""
    reader = gguf.GGUFReader(path)
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}
    names = [tensor.name for tensor in reader.tensors]
    assert len(set(names)) == len(names)
    keys = {key: contents(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return keys, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def contents(field: Any) -> Any:
    """The value of a key: a number, a text or a list of texts."""
    kinds = gguf.GGUFValueType
    values = [field.parts[index] for index in field.data]
    if field.types[-1] == kinds.STRING:
        texts = [bytes(value).decode() for value in values]
        return texts if field.types[0] == kinds.ARRAY else texts[0]
    return int(values[0][0])


class Dat(NamedTuple):
    """A file in the format before GGUF."""

    calls: dict[str, int]
    values: dict[str, np.ndarray]
    chunks: int
    data: str


def read_dat(path: Path) -> Dat:
    content, at = path.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal at
        found = struct.unpack_from(f"<{form}", content, at)
        at += struct.calcsize(f"<{form}")
        return found[0] if len(found) == 1 else found

    calls, values = {}, {}
    for _ in range(take("i")):
        name = take(f"{take('i')}s").decode()
        calls[name], size = take("ii")
        values[name] = np.array(take(f"{size}f"))
    chunks = take("i")
    data = take(f"{take('i')}s").decode()
    assert at == len(content)
    return Dat(calls, values, chunks, data)


class TestDense:
    def test_sums_and_counts_are_those_of_the_collector(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches()
        normprobe.record(model, data).annotate(data="wiki.txt").export(tmp_path / "x.gguf", "imatrix")
        keys, tensors = read(tmp_path / "x.gguf")
        expected = collected(model, data, sums)
        assert set(expected) - set(NAMES) == {"lm_head"}
        assert set(tensors) == {f"{name}.{what}" for name in NAMES.values() for what in ("in_sum2", "counts")}
        for layer, name in NAMES.items():
            squares, _, count = expected[layer]
            np.testing.assert_allclose(tensors[f"{name}.in_sum2"], squares, rtol=1e-6)
            assert tensors[f"{name}.in_sum2"].shape == squares.shape
            assert tensors[f"{name}.counts"].tolist() == [count] == [108]
        # Three batches of four examples of nine tokens.
        assert keys == {
            "general.type": "imatrix",
            "imatrix.datasets": ["wiki.txt"],
            "imatrix.chunk_count": 12,
            "imatrix.chunk_size": 9,
        }

    def test_the_types_of_the_keys_are_those_of_llama_imatrix(self, tmp_path: Path) -> None:
        normprobe.record(quantizers.llama(), quantizers.batches()).export(tmp_path / "x", "imatrix")
        fields = gguf.GGUFReader(tmp_path / "x").fields
        kinds = gguf.GGUFValueType
        assert contents(fields["GGUF.version"]) == 3
        assert fields["imatrix.datasets"].types == [kinds.ARRAY, kinds.STRING]
        assert fields["imatrix.chunk_count"].types == fields["imatrix.chunk_size"].types == [kinds.UINT32]

    def test_the_head_is_left_out_as_llama_imatrix_does(self, tmp_path: Path) -> None:
        export = normprobe.record(quantizers.llama(), quantizers.batches()).export(tmp_path / "x", "imatrix")
        assert export.layers == tuple(NAMES)
        assert str(export) == (
            "imatrix of 14 of 15 Linear layers\n"
            "1 of 15 Linear layers lay outside the blocks, which llama-imatrix leaves out, too: "
            "not in the file (lm_head)"
        )

    def test_padding_is_left_out(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches(padded=True)
        normprobe.record(model, data).export(tmp_path / "x", "imatrix")
        _, tensors = read(tmp_path / "x")
        real, every = collected(model, data, sums, real_rows=True), collected(model, data, sums)
        for layer, name in NAMES.items():
            np.testing.assert_allclose(tensors[f"{name}.in_sum2"], real[layer][0], rtol=1e-6)
            assert tensors[f"{name}.counts"].tolist() == [3 * (4 * 9 - 4 - 2)]
            assert (tensors[f"{name}.in_sum2"] < every[layer][0]).any()

    def test_the_base_model_has_the_same_names(self, tmp_path: Path) -> None:
        base, data = quantizers.llama().model, quantizers.batches()
        normprobe.record(base, data).export(tmp_path / "x", "imatrix")
        assert set(read(tmp_path / "x")[1]) >= {f"{name}.counts" for name in NAMES.values()}

    def test_parts_merged_are_the_whole(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches(padded=True)
        parts = [normprobe.record(model, [batch], part=str(at)) for at, batch in enumerate(data)]
        normprobe.merge(*parts).export(tmp_path / "a", "imatrix")
        normprobe.record(model, data).export(tmp_path / "b", "imatrix")
        (keys, tensors), (whole_keys, whole) = read(tmp_path / "a"), read(tmp_path / "b")
        assert keys == whole_keys
        assert list(tensors) == list(whole)
        for name, expected in whole.items():
            np.testing.assert_allclose(tensors[name], expected, rtol=0 if "counts" in name else 1e-6)

    def test_a_merged_weight_is_one_module(self, tmp_path: Path) -> None:
        import transformers

        torch.manual_seed(0)
        model = transformers.Phi3ForCausalLM(transformers.Phi3Config(**quantizers.SIZES)).eval()
        data = quantizers.batches()
        normprobe.record(model, data).export(tmp_path / "x", "imatrix")
        expected = collected(model, data, sums)["model.layers.1.self_attn.qkv_proj"]
        found = read(tmp_path / "x")[1]["blk.1.attn_qkv.weight.in_sum2"]
        np.testing.assert_allclose(found, expected[0], rtol=1e-6)


class TestExperts:
    EXPERT = "model.layers.{}.mlp.experts.{}.{}_proj"

    def test_each_has_its_own_rows(self, tmp_path: Path) -> None:
        model, data = quantizers.Qwen2MoeForCausalLM(), quantizers.batches()
        export = normprobe.record(model, data).export(tmp_path / "x", "imatrix")
        _, tensors = read(tmp_path / "x")
        expected = collected(model, data, sums)
        for block in range(2):
            for part, width in (("up", 32), ("down", 48)):
                name = f"blk.{block}.ffn_{part}_exps.weight"
                squares, counts = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
                assert squares.shape == (4, width)
                assert counts.shape == (4, 1)
                assert counts.sum() == 2 * 108
                assert counts[3] == 0
                assert not squares[3].any()
                for expert in range(3):
                    found, _, count = expected[self.EXPERT.format(block, expert, part)]
                    np.testing.assert_allclose(squares[expert], found, rtol=1e-6)
                    assert counts[expert] == count
            assert tensors[f"blk.{block}.ffn_gate_inp.weight.counts"].tolist() == [108]
        # The one without rows is in the file, with a count of 0.
        assert not export.left_out

    @pytest.mark.skipif(not FIFTH, reason="transformers 4 holds these experts in lists of modules")
    def test_that_are_one_tensor_are_said_to_be_missing(self, tmp_path: Path) -> None:
        export = normprobe.record(quantizers.mixtral(), quantizers.batches()).export(
            tmp_path / "x", "imatrix"
        )
        names = {name.rpartition(".weight.")[0] for name in read(tmp_path / "x")[1]}
        assert names == {
            f"blk.{block}.{name}"
            for block in range(2)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp")
        }
        assert [name for name in export.left_out if "experts" in name] == [
            f"model.layers.{block}.mlp.experts.{name}_proj"
            for block in range(2)
            for name in ("gate_up", "down")
        ]

    def test_of_which_one_read_nan_are_left_out_together(self, tmp_path: Path) -> None:
        model = quantizers.Qwen2MoeForCausalLM()
        with torch.no_grad():
            model.model["layers"][1]["mlp"].experts[0]["up_proj"].bias[5] = torch.nan
        export = normprobe.record(model, quantizers.batches()).export(tmp_path / "x", "imatrix")
        assert "blk.1.ffn_up_exps.weight.counts" in read(tmp_path / "x")[1]
        assert "blk.1.ffn_down_exps.weight.counts" not in read(tmp_path / "x")[1]
        assert export.left_out[self.EXPERT.format(1, 0, "down")] == "read NaN or Inf"
        assert export.left_out[self.EXPERT.format(1, 1, "down")] == (
            f"shared a weight with {self.EXPERT.format(1, 0, 'down')}, which read NaN or Inf"
        )

    def test_of_which_not_all_were_probed_are_left_out(self, tmp_path: Path) -> None:
        recording = normprobe.record(
            quantizers.Qwen2MoeForCausalLM(), quantizers.batches(), layers=["*.gate", "*.experts.[012].*"]
        )
        export = recording.export(tmp_path / "x", "imatrix")
        assert {name.split(".")[2] for name in read(tmp_path / "x")[1]} == {"ffn_gate_inp"}
        assert set(export.left_out.values()) == {"shared a weight with layers that were not probed"}


class TestDatFile:
    def test_values_by_calls_are_mean_squares(self, tmp_path: Path) -> None:
        model, data = quantizers.llama(), quantizers.batches(padded=True)
        normprobe.record(model, data).export(tmp_path / "x.dat", "imatrix-dat")
        found = read_dat(tmp_path / "x.dat")
        expected = collected(model, data, sums, real_rows=True)
        assert set(found.values) == set(NAMES.values())
        for layer, name in NAMES.items():
            squares, _, count = expected[layer]
            np.testing.assert_allclose(found.values[name] / found.calls[name], squares / count, rtol=1e-6)
        # 90 rows in chunks of ceil(90 / 12) = 8.
        assert set(found.calls.values()) == {12}
        assert (found.chunks, found.data) == (12, "normprobe")

    def test_experts_stand_one_after_the_other(self, tmp_path: Path) -> None:
        model, data = quantizers.Qwen2MoeForCausalLM(), quantizers.batches()
        normprobe.record(model, data).export(tmp_path / "x.dat", "imatrix-dat")
        found, expected = read_dat(tmp_path / "x.dat"), collected(model, data, sums)
        name = "blk.1.ffn_down_exps.weight"
        means = found.values[name].reshape(4, 48) / found.calls[name]
        rows = [expected[TestExperts.EXPERT.format(1, expert, "down")] for expert in range(3)]
        for mean, (squares, _, count) in zip(means, rows, strict=False):
            np.testing.assert_allclose(mean, squares / count, rtol=1e-6)
        assert found.calls[name] == -(-max(count for _, _, count in rows) // 9)
        assert (means[3] == 1).all()


class TestErrors:
    def test_an_architecture_without_names(self, tmp_path: Path) -> None:
        recording = normprobe.record(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2))
        with pytest.raises(RecordingError, match=r"^the recording is of Sequential, whose .* GGUF names"):
            recording.export(tmp_path / "x", "imatrix")

    def test_gguf_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from normprobe.tables.quantizer_files import gguf_names

        recording = normprobe.record(quantizers.llama(), quantizers.batches())
        gguf_names._name_map.cache_clear()
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(RecordingError, match=r"pip install gguf$"):
            recording.export(tmp_path / "x", "imatrix")

    def test_gguf_is_too_old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from normprobe.tables.quantizer_files import gguf_names

        recording = normprobe.record(quantizers.llama(), quantizers.batches())
        gguf_names._name_map.cache_clear()
        monkeypatch.setattr(gguf, "MODEL_ARCH_NAMES", {})
        with pytest.raises(RecordingError, match=r"does not know the architecture llama; pip"):
            recording.export(tmp_path / "x", "imatrix")

    def test_one_module_under_several_names(self, tmp_path: Path) -> None:
        model = quantizers.llama()
        model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
        export = normprobe.record(model, quantizers.batches()).export(tmp_path / "x", "imatrix")
        assert export.left_out["model.layers.0.mlp.up_proj"].startswith("had several names")
        assert "blk.0.ffn_up.weight.counts" not in read(tmp_path / "x")[1]


class TestExpertsOfOneWeight:
    """Of transformers 5, whose experts are rows of one parameter."""

    def files(self, tmp_path: Path, model: nn.Module, data: list[Any], form: str = "imatrix") -> Any:
        with torch.no_grad(), normprobe.Probe(model, experts=True) as probe:
            for batch in data:
                model(**batch)
        return probe.recording, probe.recording.export(tmp_path / "x", form)

    @pytest.mark.parametrize("make", [expert_models.mixtral, expert_models.qwen3_moe])
    def test_sums_and_counts_are_those_of_each_expert(self, make: Any, tmp_path: Path) -> None:
        model, data = make(), [expert_models.batch(1), expert_models.batch(2)]
        model.set_experts_implementation("eager")
        holders = {f"model.layers.{block}.mlp.experts": "down_proj" for block in range(2)}
        rows = expert_rows(model, data, holders)
        _, export = self.files(tmp_path, model, data)
        assert set(export.left_out) == {"lm_head"}
        _, tensors = read(tmp_path / "x")
        for block in range(2):
            for name, site in (("gate", "input"), ("up", "input"), ("down", "intermediate")):
                weight = f"blk.{block}.ffn_{name}_exps.weight"
                squares, counts = tensors[f"{weight}.in_sum2"], tensors[f"{weight}.counts"]
                for expert in range(len(counts)):
                    own = rows.get((f"model.layers.{block}.mlp.experts", site, expert))
                    found = np.zeros(squares.shape[1]) if own is None else np.square(own).sum(0)
                    np.testing.assert_allclose(squares[expert], found, rtol=1e-6)
                    assert counts[expert].tolist() == [0 if own is None else len(own)]
                assert counts.sum() == 2 * 22 * 2
        assert tensors["blk.0.ffn_gate_inp.weight.counts"].tolist() == [44]

    def test_where_weights_are_copied_the_last_is_left_out(self, tmp_path: Path) -> None:
        model = expert_models.mixtral()
        model.set_experts_implementation("batched_mm")
        _, export = self.files(tmp_path, model, [expert_models.batch(1)])
        down = [f"model.layers.{block}.mlp.experts.down_proj" for block in range(2)]
        assert set(export.left_out) == {"lm_head", *down}
        assert "was used as a copy" in export.left_out[down[0]]
        names = read(tmp_path / "x")[1]
        assert "blk.1.ffn_up_exps.weight.in_sum2" in names
        assert "blk.1.ffn_down_exps.weight.in_sum2" not in names

    def test_before_gguf_each_expert_has_its_own_mean(self, tmp_path: Path) -> None:
        recording, _ = self.files(tmp_path, expert_models.mixtral(), [expert_models.batch(1)], "imatrix-dat")
        found = read_dat(tmp_path / "x")
        features = recording.expert_features
        own = features[(features["layer"] == "model.layers.0.mlp.experts") & (features["site"] == "input")]
        squares = (own["mean"] ** 2 + own["variance"]).to_numpy()
        name = "blk.0.ffn_gate_exps.weight"
        np.testing.assert_allclose(found.values[name] / found.calls[name], squares, rtol=1e-6)
