"""The tools themselves, where installed: what they gather is in the recording, and they take the file.

    pip install llmcompressor nvidia-modelopt

Neither is in the extra `test`: they bring gigabytes. Without them their formulas, written out in
`tests.helpers.quantizers` and `benchmarks.exports.collectors`, stand for them.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from tests.helpers import quantizers

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def llmcompressor() -> Any:
    """The parts of llm-compressor that gather; imported here, where its warnings are no errors."""
    found = pytest.importorskip(
        "llmcompressor", reason="llmcompressor is not installed", exc_type=ImportError
    )
    from llmcompressor.modifiers.gptq.base import accumulate_hessian, make_empty_hessian
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.awq.mappings import default_mappings
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
    from llmcompressor.modifiers.transform.smoothquant.base import SmoothQuantScale
    from llmcompressor.observers import Observer

    return SimpleNamespace(
        version=found.__version__,
        AWQModifier=AWQModifier,
        default_mappings=default_mappings,
        SmoothQuantModifier=SmoothQuantModifier,
        SmoothQuantScale=SmoothQuantScale,
        Observer=Observer,
        accumulate_hessian=accumulate_hessian,
        make_empty_hessian=make_empty_hessian,
    )


def run(model: nn.Module, data: list[dict[str, torch.Tensor]]) -> None:
    with torch.no_grad():
        for batch in data:
            model(**batch)


def observers(model: nn.Module, data: list[dict[str, torch.Tensor]], folder: Path) -> Any:
    export = normprobe.record(model, data).export(folder / "observers.pt", "llm-compressor")
    return torch.load(export.path, weights_only=True)


def smoothing(tool: Any, model: nn.Module) -> Any:
    modifier = tool.SmoothQuantModifier(smoothing_strength=0.5)
    modifier.on_initialize(SimpleNamespace(model=model, data=SimpleNamespace(calib=[])))
    return modifier


def test_smoothquant_of_llm_compressor_takes_the_file_for_its_own(llmcompressor: Any, tmp_path: Path) -> None:
    model, other, data = quantizers.llama(), quantizers.llama(), quantizers.batches()
    found = observers(model, data, tmp_path)["smoothquant"]
    own = smoothing(llmcompressor, model)
    own._setup_scale_hooks()
    run(model, data)
    own.remove_hooks()
    assert len(own.scales_) == 4
    for name, scale in own.scales_.items():
        assert torch.equal(found[name]["min_channel_vals"], scale.min_channel_vals)
        assert torch.equal(found[name]["max_channel_vals"], scale.max_channel_vals)
    given = smoothing(llmcompressor, other)
    given.scales_ = {name: llmcompressor.SmoothQuantScale(**found[name]) for name in own.scales_}
    before = {name: weight.clone() for name, weight in other.named_parameters()}
    own._apply_smoothing(model)
    given._apply_smoothing(other)
    weights = dict(model.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in other.named_parameters())
    assert any(not torch.equal(weight, before[name]) for name, weight in other.named_parameters())


def test_awq_of_llm_compressor_holds_these_means(llmcompressor: Any, tmp_path: Path) -> None:
    model, data = quantizers.llama(), quantizers.batches()
    found = observers(model, data, tmp_path)["awq"]
    modifier = llmcompressor.AWQModifier(mappings=llmcompressor.default_mappings, offload_device=None)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.quantization_scheme = None  # AWQ asks whether a layer is to be quantized at all
    modifier._set_resolved_mappings(model)
    modifier._setup_activation_cache_hooks()
    run(model, data)
    modifier.remove_hooks()
    # Not v_proj with o_proj: with grouped queries their sizes differ.
    assert len(modifier._resolved_mappings) == 6
    for mapping in modifier._resolved_mappings:
        total, count = modifier._smooth_activation_stats[mapping.smooth_name]
        held = found[mapping.balance_names[0]]
        np.testing.assert_allclose(held["mean"].numpy(), (total / count).numpy(), rtol=1e-6)
        assert held["count"] == int(count)


def test_the_observer_imatrix_mse_holds_these_sums(llmcompressor: Any, tmp_path: Path) -> None:
    from compressed_tensors.quantization import QuantizationArgs

    model, data = quantizers.llama(), quantizers.batches()
    found = observers(model, data, tmp_path)["imatrix_mse"]
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    of = {
        name: llmcompressor.Observer.load_from_registry(
            "imatrix_mse", base_name="weight", args=QuantizationArgs(num_bits=4, strategy="channel")
        )
        for name in layers
    }
    for name, observer in of.items():
        observer.attach(layers[name])
    run(model, data)
    assert set(found) == set(of)
    for name, observer in of.items():
        observer.detach(layers[name])
        np.testing.assert_allclose(
            found[name]["_imatrix_sum"].numpy(), observer._imatrix_sum.numpy(), rtol=1e-6
        )
        assert torch.equal(found[name]["_imatrix_count"], observer._imatrix_count)
    # What the observer makes of its sums it makes of the file's.
    weight = layers["model.layers.0.mlp.down_proj"].weight
    own = of["model.layers.0.mlp.down_proj"]
    importance = own._get_validated_importance(weight.detach()[None])
    own._imatrix_sum = found["model.layers.0.mlp.down_proj"]["_imatrix_sum"]
    own._imatrix_count = found["model.layers.0.mlp.down_proj"]["_imatrix_count"]
    given = own._get_validated_importance(weight.detach()[None])
    np.testing.assert_allclose(given.numpy(), importance.numpy(), rtol=1e-6)


def test_the_diagonal_of_gptq_follows_from_features(llmcompressor: Any) -> None:
    model, data = quantizers.llama(), quantizers.batches()
    features = normprobe.record(model, data).features.query("site == 'input'")
    layer = model.model.layers[1].mlp.down_proj
    matrix, count = llmcompressor.make_empty_hessian(layer), torch.zeros(())

    def hook(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal matrix, count
        matrix, count = llmcompressor.accumulate_hessian(args[0], layer, matrix, count)

    handle = layer.register_forward_hook(hook)
    run(model, data)
    handle.remove()
    of = features[features["layer"] == "model.layers.1.mlp.down_proj"]
    assert int(count) == 12
    diagonal = 2 * of["count"] * (of["mean"] ** 2 + of["variance"]) / int(count)
    np.testing.assert_allclose(diagonal, (matrix.diagonal() / count).numpy(), rtol=1e-6)


def test_model_optimizer_calibrates_to_the_largest_magnitude(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="no nvidia-modelopt", exc_type=ImportError)
    import modelopt.torch.quantization as mtq

    model, data = quantizers.llama(), quantizers.batches()
    recording = normprobe.record(model, data)
    largest = recording.layers.query("site == 'input' and kind == 'linear'").set_index("layer")["abs_max"]
    quantized = mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda model: run(model, data))
    found = {
        name: module.input_quantizer.amax
        for name, module in quantized.named_modules()
        if hasattr(module, "input_quantizer") and module.input_quantizer.amax is not None
    }
    assert set(largest.index) - set(found) <= {"lm_head"}  # which its configuration leaves alone
    assert len(found) == 14
    for name, amax in found.items():
        assert float(amax) == largest[name]


def test_smoothquant_of_model_optimizer_gathers_act_scales(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="no nvidia-modelopt", exc_type=ImportError)
    import modelopt.torch.quantization as mtq

    model, data = quantizers.llama(), quantizers.batches()
    scales = torch.load(
        normprobe.record(model, data).export(tmp_path / "s.pt", "act-scales").path, weights_only=True
    )
    by_feature = {"num_bits": 8, "axis": -1}
    off = {"enable": False}
    quantized = mtq.quantize(
        model,
        {
            "quant_cfg": [
                {"quantizer_name": "*", **off},
                {"quantizer_name": "*input_quantizer", "cfg": by_feature},
            ],
            "algorithm": "max",
        },
        lambda model: run(model, data),
    )
    for name, expected in scales.items():
        amax = quantized.get_submodule(name).input_quantizer.amax
        assert torch.equal(amax.flatten().float(), expected), name
