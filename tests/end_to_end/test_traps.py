"""Traps met in real models, each in a test of its name; more of each stands in the tests of its module."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.checkpoint import checkpoint
from transformers.models.albert import AlbertConfig, AlbertModel
from transformers.models.bamba.modeling_bamba import BambaRMSNormGated
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d
from transformers.models.eomt.modeling_eomt import EomtLayerNorm2d
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.mobilebert.modeling_mobilebert import NoNorm
from transformers.models.olmo2 import Olmo2Config, Olmo2Model
from transformers.models.qwen3 import Qwen3Config, Qwen3Model
from transformers.models.roberta_prelayernorm import RobertaPreLayerNormConfig, RobertaPreLayerNormModel
from transformers.models.wav2vec2 import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GroupNormConvLayer
from transformers.pytorch_utils import Conv1D

import normprobe
from tests.helpers.against_oracle import hold


class Through(nn.Module):
    """Calls a layer in a way of its own."""

    def __init__(self, layer: nn.Module, way: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.way = layer, way

    def forward(self, x: Tensor) -> Any:
        return self.way(self.layer, x)


def exact(model: nn.Module, *batches: Any, ordered: bool = True) -> normprobe.Recording:
    """Record a model and hold every number to the float64 two-pass over what its layers read and wrote."""
    recordings: list[normprobe.Recording] = []

    def run() -> normprobe.Recording:
        recordings.append(normprobe.record(model, list(batches), samples="all"))
        return recordings[0]

    hold(model, run, ordered=ordered)
    return recordings[0]


def of(recording: normprobe.Recording, layer: str = "layer") -> Any:
    return recording.ledger.set_index("layer").loc[layer]


def x(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


class TestHowLayersAreCalled:
    def test_input_modified_in_place_afterwards(self) -> None:
        exact(Through(nn.LayerNorm(6), lambda norm, x: norm(x.clone()).relu_() + x.zero_()), x(4, 6))

    def test_output_modified_in_place_afterwards(self) -> None:
        exact(Through(nn.Linear(6, 3), lambda linear, x: linear(x).relu_()), x(4, 6), x(5, 6, seed=1))

    def test_input_modified_in_place_by_the_layer(self) -> None:
        class InPlaceRMSNorm(nn.Module):
            eps = 1e-6

            def forward(self, x: Tensor) -> Tensor:
                return x.div_((x.square().mean(-1, keepdim=True) + self.eps).sqrt())

        recording = exact(Through(InPlaceRMSNorm(), lambda norm, x: norm(x.clone())), x(4, 6))
        assert of(recording)["kind"] == "rms_norm"

    def test_never_called(self) -> None:
        model = nn.ModuleDict({"used": nn.Linear(6, 6), "unused": nn.Linear(6, 6)})
        recording = exact(Through(model, lambda parts, x: parts["used"](x)), x(4, 6))
        assert of(recording, "layer.unused")["status"] == "never fired"
        assert of(recording, "layer.unused")["reason"]

    def test_called_several_times_per_forward(self) -> None:
        torch.manual_seed(0)
        config = AlbertConfig(embedding_size=8, num_attention_heads=2, **SMALL | {"num_hidden_layers": 12})
        recording = exact(AlbertModel(config).eval(), {"input_ids": IDS})
        inner = "encoder.albert_layer_groups.0.albert_layers.0.ffn"
        assert of(recording, inner)["calls"] == 12
        assert sorted(set(recording.samples.query("layer == @inner")["repeat"])) == list(range(12))

    def test_keyword_arguments_only(self) -> None:
        exact(Through(nn.LayerNorm(6), lambda norm, x: norm(input=x)), x(4, 6))

    def test_tuple_outputs(self) -> None:
        class PairNorm(nn.LayerNorm):
            def forward(self, x: Tensor) -> Any:
                return super().forward(x), x

        exact(Through(PairNorm(6), lambda norm, x: norm(x)[0]), x(4, 6))

    def test_two_tensor_gated_norms(self) -> None:
        # Only since transformers 5 it may divide by a group of its features.
        groups = {"group_size": 6} if "group_size" in signature(BambaRMSNormGated).parameters else {}
        norm = BambaRMSNormGated(6, **groups)
        recording = exact(Through(norm, lambda norm, x: norm(x, gate=x * 2 - 3)), x(4, 6), x(3, 6, seed=1))
        assert of(recording)["kind"] in ("rms_norm", "norm")

    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x.transpose(0, 1),
            lambda x: x[:, ::2],
            lambda x: x[..., ::2].expand(-1, -1, 3),
            lambda x: x.flip(-1).T.mT,
        ],
        ids=["transposed", "strided", "expanded", "turned"],
    )
    @pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors")
    def test_non_contiguous_inputs(self, view: Callable[[Tensor], Tensor]) -> None:
        given = x(4, 6, 2)
        width = view(given).shape[-1]
        exact(Through(nn.LayerNorm(width), lambda norm, x: norm(view(x))), given, ordered=False)

    def test_integer_inputs(self) -> None:
        class IntegerLinear(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.float())

        recording = exact(
            Through(IntegerLinear(6, 3), lambda linear, x: linear(x)), torch.arange(24).view(4, 6)
        )
        assert "int64" in set(recording.layers["dtype"])

    def test_empty_inputs(self) -> None:
        recording = exact(nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3)), x(0, 6), x(4, 6))
        assert set(recording.layers["n_samples"]) == {4}
        nothing = exact(nn.Sequential(nn.LayerNorm(3)), x(0, 3))
        assert "a call without a sample" in of(nothing, "0")["reason"]

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
    def test_outputs_of_another_dtype_under_autocast(self) -> None:
        def way(linear: nn.Module, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return linear(x)

        dtypes = exact(Through(nn.Linear(6, 3), way), x(4, 6)).layers.set_index("site")["dtype"]
        assert dtypes.to_dict() == {"input": "float32", "output": "bfloat16"}

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
    def test_nested_tensors(self, layout: torch.layout) -> None:
        parts = [x(2, 6), x(5, 6, seed=1)]
        nested = torch.nested.nested_tensor(parts, layout=layout)
        recording = normprobe.record(nn.Sequential(nn.LayerNorm(6)), [nested])
        features = recording.features.query("site == 'input'")
        oracle = torch.cat(parts).double()
        np.testing.assert_allclose(features["mean"], oracle.mean(0), rtol=1e-6)
        np.testing.assert_allclose(features["variance"], oracle.var(0, correction=0), rtol=1e-6)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (torch.empty(4, 6, device="meta"), "meta tensors, which hold no numbers"),
            (torch.ones(4, 6, dtype=torch.complex64), "complex numbers, which have no order"),
        ],
        ids=["meta", "complex"],
    )
    def test_meta_and_complex_tensors(self, given: Tensor, said: str) -> None:
        linear = nn.Linear(6, 3, device=given.device, dtype=given.dtype)
        with normprobe.Probe(Through(linear, lambda linear, x: linear(x))) as probe:
            probe.model(given)
        assert said in of(probe.recording)["reason"]
        assert of(probe.recording)["status"] == "unmeasured"


def kinds(model: nn.Module) -> dict[str, str]:
    with normprobe.Probe(nn.ModuleList([nn.Linear(2, 2), model])) as probe:
        ledger = probe.recording.ledger
    return {
        layer.removeprefix("1.").removeprefix("1"): kind
        for layer, kind in zip(ledger["layer"], ledger["kind"], strict=True)
        if layer != "0"
    }


@pytest.mark.filterwarnings("ignore:nothing was measured")
class TestNamesThatLie:
    @pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
    def test_weight_norm_is_a_parametrization(self) -> None:
        assert kinds(parametrizations.weight_norm(nn.Linear(3, 3))) == {"": "linear"}
        assert kinds(weight_norm(nn.Conv1d(3, 3, 1))) == {}

    def test_norm_conv_layers_are_containers(self) -> None:
        config = Wav2Vec2Config(conv_dim=(8, 8), conv_kernel=(3, 3), conv_stride=(1, 1))
        assert kinds(Wav2Vec2GroupNormConvLayer(config, layer_id=1)) == {"layer_norm": "group_norm"}

    def test_pre_layer_norm_models_are_containers(self) -> None:
        torch.manual_seed(0)
        model = RobertaPreLayerNormModel(RobertaPreLayerNormConfig(num_attention_heads=2, **SMALL)).eval()
        recording = exact(model, {"input_ids": IDS})
        assert set(recording.ledger["type"]) == {"Linear", "LayerNorm"}

    def test_no_norm_normalizes_nothing_and_the_ledger_says_so(self) -> None:
        norm = NoNorm(6)
        nn.init.normal_(norm.weight)
        recording = exact(Through(norm, lambda norm, x: norm(x)), x(4, 6))
        assert of(recording)["kind"] == "norm"

    def test_normed_embeddings_are_no_norms(self) -> None:
        inkling = pytest.importorskip("transformers.models.inkling.modeling_inkling", reason="newer family")
        found = kinds(inkling.InklingNormedEmbedding(10, 6, None, 1e-6))
        assert "" not in found

    @pytest.mark.parametrize("cls", [ConvNextLayerNorm, EomtLayerNorm2d])
    def test_layer_norms_over_axis_1(self, cls: type[nn.Module]) -> None:
        norm = cls(3, eps=1e-6, data_format="channels_first") if cls is ConvNextLayerNorm else cls(3)
        data = x(2, 3, 4, 5)
        recording = normprobe.record(Through(norm, lambda norm, x: norm(x)), [data])
        features = recording.features.query("site == 'input'")
        rows = data.movedim(1, -1).reshape(-1, 3).double()
        np.testing.assert_allclose(features["mean"], rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(features["variance"], rows.var(0, correction=0), rtol=1e-6)
        assert of(recording)[["kind", "sample_unit"]].tolist() == ["layer_norm", "position"]

    def test_frozen_batch_norms(self) -> None:
        norm = DetrFrozenBatchNorm2d(3)
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        recording = normprobe.record(Through(norm, lambda norm, x: norm(x)), [x(2, 3, 4, 4)])
        assert of(recording)[["kind", "sample_unit"]].tolist() == ["batch_norm", "example"]
        assert recording.features.query("site == 'input'")["running_mean"].tolist() == [1, 2, 3]

    def test_weightless_rms_norms(self) -> None:
        class PlainRMSNorm(nn.Module):
            eps = 1e-6

            def forward(self, x: Tensor) -> Tensor:
                return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

        recording = exact(Through(PlainRMSNorm(), lambda norm, x: norm(x)), x(8, 6))
        assert of(recording)["kind"] == "rms_norm"
        assert recording.features.query("site == 'output'")["weight"].tolist() == [1.0] * 6

    def test_unit_offset_weights(self) -> None:
        norm = GemmaRMSNorm(6)
        nn.init.normal_(norm.weight, std=0.3)
        recording = exact(Through(norm, lambda norm, x: norm(x)), x(8, 6))
        applied = recording.features.query("site == 'output'")["weight"]
        np.testing.assert_allclose(applied, 1 + norm.weight.detach(), rtol=1e-6)

    def test_norms_that_have_children(self) -> None:
        class ScaledNorm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight, self.eps, self.drop = nn.Parameter(torch.ones(6)), 1e-6, nn.Dropout(0.0)

            def forward(self, x: Tensor) -> Tensor:
                x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
                return self.drop(self.weight * x)

        recording = exact(Through(ScaledNorm(), lambda norm, x: norm(x)), x(8, 6))
        assert recording.ledger["kind"].tolist() == ["rms_norm"]

    def test_norms_whose_number_of_features_varies_between_calls(self) -> None:
        class AnyNorm(nn.Module):
            eps = 1e-6

            def forward(self, x: Tensor) -> Tensor:
                return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

        recording = normprobe.record(Through(AnyNorm(), lambda norm, x: norm(x)), [x(8, 6), x(8, 5), x(4, 6)])
        assert of(recording)["calls"] == 2
        assert "a call with 5 features instead of 6 at its input is left out" in of(recording)["reason"]

    @pytest.mark.parametrize(
        ("cls", "config", "rows", "width"),
        [
            (Qwen3Model, Qwen3Config(head_dim=4, **HEADS, **SMALL), 4, 4),
            (Olmo2Model, Olmo2Config(**HEADS, **SMALL), 1, 16),
        ],
        ids=["(batch, time, heads, size)", "(batch, time, all heads)"],
    )
    def test_norms_per_head(self, cls: Any, config: Any, rows: int, width: int) -> None:
        torch.manual_seed(0)
        recording = normprobe.record(cls(config).eval(), [{"input_ids": IDS, "attention_mask": MASK}])
        name = "layers.0.self_attn.q_norm"
        assert of(recording, name)[["kind", "aligned", "masked_by", "n_features"]].tolist() == [
            "rms_norm",
            True,
            "attention_mask",
            width,
        ]
        samples = recording.layers.set_index(["layer", "site"]).loc[(name, "input"), "n_samples"]
        assert samples == rows * int(MASK.sum())


class TestLinearsWithoutLinear:
    def test_conv1d_of_transformers(self) -> None:
        assert of(exact(Through(Conv1D(3, 6), lambda linear, x: linear(x)), x(4, 6)))["n_features"] == 6

    def test_parametrized_linears(self) -> None:
        linear = parametrizations.spectral_norm(nn.Linear(6, 3)).eval()
        assert of(exact(Through(linear, lambda linear, x: linear(x)), x(4, 6)))["kind"] == "linear"

    @pytest.mark.filterwarnings("ignore")
    def test_quantized_linears(self) -> None:
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 3)), {nn.Linear})
        assert of(exact(model, x(4, 6)), "0")["kind"] == "linear"

    @pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
    def test_lazy_linears(self) -> None:
        recording = normprobe.record(nn.Sequential(nn.LazyLinear(3)), [x(4, 6)])
        assert recording.layers["n_features"].tolist() == [6, 3]

    def test_routers_through_functions_and_experts_as_one_weight(self) -> None:
        class Router(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3, 6))

            def forward(self, x: Tensor) -> Tensor:
                return F.linear(x, self.weight)

        class Experts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.router, self.weights = Router(), nn.Parameter(torch.randn(3, 6, 6))

            def forward(self, x: Tensor) -> Tensor:
                chosen = self.router(x).softmax(-1)
                return torch.einsum("be,eoi,bi->bo", chosen, self.weights, x)

        model = Experts()
        with normprobe.Probe(model) as probe:
            model(x(4, 6))
        assert of(probe.recording, "router")[["status", "via"]].tolist() == ["fired", "functional"]
        assert of(probe.recording, "weights")["status"] == "bypassed"
        assert "holds the weights of all experts" in of(probe.recording, "weights")["reason"]


class TestFusedKernels:
    def test_out_proj_of_attention_never_fires_a_hook(self) -> None:
        attention, fired = nn.MultiheadAttention(8, 2), []
        attention.out_proj.register_forward_hook(lambda *_: fired.append(1))
        with normprobe.Probe(attention) as probe:
            attention(*[x(5, 3, 8)] * 3)
        assert not fired
        assert of(probe.recording, "out_proj")[["status", "via"]].tolist() == ["fired", "functional"]

    def test_hooks_switch_off_the_fast_path_of_an_encoder(self) -> None:
        model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        with torch.no_grad():
            bare = model(x(3, 5, 8))
            with normprobe.Probe(model) as probe:
                probed = model(x(3, 5, 8))
            assert torch.equal(model(x(3, 5, 8)), bare)
        assert torch.allclose(probed, bare, atol=1e-5)
        assert probe.recording.ledger["reason"].str.contains("equal the bare model's only to rounding").all()


class TestHooks:
    def test_a_hook_that_returns_a_tensor_replaces_the_output(self) -> None:
        model = nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3))
        with normprobe.Probe(model):
            for module in model.modules():
                for hook in module._forward_pre_hooks.values():
                    assert hook(module, (x(4, 6),), {}) is None
                for hook in module._forward_hooks.values():
                    assert hook(module, (), {}, x(4, 3)) is None

    def test_versions_cannot_be_read_under_inference_mode(self) -> None:
        with torch.inference_mode():
            given = x(4, 6)
            with pytest.raises(RuntimeError, match="version"):
                _ = given._version
            recording = exact(nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6)), given)
        assert set(recording.ledger["reason"]) == {""}

    def test_reentrant_checkpointing_fires_each_hook_twice(self) -> None:
        inner, fired = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), []
        inner[0].register_forward_hook(lambda *_: fired.append(1))
        model = Through(inner, lambda inner, x: checkpoint(inner, x, use_reentrant=True))
        with normprobe.Probe(model) as probe:
            model(x(4, 6).requires_grad_()).sum().backward()
        assert len(fired) == 2
        assert set(probe.recording.ledger["calls"]) == {1}
        assert set(probe.recording.layers["n_samples"]) == {4}

    @pytest.mark.filterwarnings("ignore")
    def test_script_modules_refuse_hooks(self) -> None:
        scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6)))
        with normprobe.Probe(scripted) as probe:
            scripted(x(4, 6))
        assert of(probe.recording, "0")["status"] == "refused"

    @pytest.mark.filterwarnings("ignore")
    def test_hooks_added_after_compiling_do_not_fire(self) -> None:
        model = torch.compile(nn.Sequential(nn.Linear(6, 6)), backend="eager")
        model(x(4, 6))
        fired = []
        handle = model._orig_mod[0].register_forward_hook(lambda *_: fired.append(1))
        model(x(4, 6))
        handle.remove()
        assert not fired
        with normprobe.Probe(model) as probe:
            model(x(4, 6))
        assert of(probe.recording, "0")[["status", "calls"]].tolist() == ["fired", 1]
        assert "compiled before the probe was entered" in of(probe.recording, "0")["reason"]


class TestBatchNorm:
    def test_calling_one_again_would_change_its_running_statistics(self) -> None:
        model, twin = nn.Sequential(nn.BatchNorm1d(6)), nn.Sequential(nn.BatchNorm1d(6))
        with normprobe.Probe(model):
            for seed in range(3):
                model(x(8, 6, seed=seed))
                twin(x(8, 6, seed=seed))
        for name, value in twin.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)

    def test_one_over_padded_positions_averages_the_padding_in(self) -> None:
        model = Through(nn.BatchNorm1d(6), lambda norm, x: norm(x.transpose(1, 2)).transpose(1, 2))
        real = torch.tensor([[True] * 4, [True, True, False, False]])
        data = torch.where(real[..., None], x(2, 4, 6), torch.tensor(0.0))
        recording = normprobe.record(model, [data], mask=lambda args, kwargs: real)
        features = recording.features.query("site == 'input'")
        np.testing.assert_allclose(features["mean"], data[real].double().mean(0), rtol=1e-6)
        np.testing.assert_allclose(features["seen_mean"], data.flatten(0, 1).double().mean(0), rtol=1e-6)


def test_a_shared_library_may_flush_denormals_in_the_whole_process() -> None:
    script = """
import numpy, torch, normprobe
from torch import nn
normprobe.record(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), [torch.randn(64, 4)])
assert float(torch.tensor([1e-39]) * 0.5) > 0, "torch"
assert float(torch.full((4096,), 1e-39).mul(0.5).max()) > 0, "torch, many at once"
assert numpy.float32(1e-39) * numpy.float32(0.5) > 0, "numpy"
assert (numpy.full(4096, 1e-39, numpy.float32) * numpy.float32(0.5)).max() > 0, "numpy, many at once"
from normprobe.kernels import dispatch
print(dispatch.name())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_submodule_of_the_name_of_a_public_function_would_replace_it() -> None:
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(normprobe.__path__):
        importlib.import_module(f"normprobe.{module.name}")
    for name in normprobe.__all__:
        if name[0].islower() and name not in ("figures", "batchnorm"):
            assert callable(getattr(normprobe, name)), name
