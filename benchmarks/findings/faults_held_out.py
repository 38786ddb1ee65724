"""Faults in the held-out set of healthy models, one line each: no threshold was fitted to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.findings.fault_kinds import (
    Fault,
    added,
    all_linear,
    data,
    eps,
    half,
    moved,
    padded,
    reset,
    scaled,
    scattered,
    set_to,
    small,
    spike,
    spliced,
    training,
    unmasked,
    wild,
)

STALE, DEAD, SMALL_EPS = "stale_running_statistics", "dead_features", "variance_below_eps"
GROWS, SHRINKS, ALIKE = "variance_explodes", "variance_vanishes", "collapsed_samples"
MINI, LITE = "encoder.layer", "_blocks.5._bn1"
ALBERT = "encoder.albert_layer_groups.0.albert_layers.0.attention"


def frozen(name: str) -> Any:
    """Freeze a norm's scale and shift, but not its mode."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.get_submodule(name).requires_grad_(False)

    return change


def twice(name: str) -> Any:
    """Let a norm count two updates per forward, as checkpointing makes it."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        norm = model.get_submodule(name)

        def again(module: Any, args: Any, output: Tensor) -> None:
            if module.training:
                module.num_batches_tracked += 1

        norm.register_forward_hook(again)

    return change


def first_of_each(model: nn.Module, batches: list[Any]) -> list[Any]:
    """Let every example be the first."""
    return [batches[0][:1].expand_as(batch).clone() for batch in batches]


def same_pixels(model: nn.Module, batches: list[Any]) -> list[Any]:
    pixels = batches[0]["pixel_values"]
    return [{"pixel_values": pixels[:1].expand_as(pixels).clone()}]


FAULTS_HELD_OUT = (
    Fault(STALE, "resnet", ("5.bn1",), scaled("5.bn1.running_var", 5), "running variance x 5"),
    Fault(STALE, "resnet_8", ("6.bn2",), scaled("6.bn2.running_var", 1 / 5), "running variance / 5"),
    Fault(STALE, "preact_bn", ("4.body.0",), moved("4.body.0", 1.5), "running mean + 1.5 deviations"),
    Fault(STALE, "efficientnet_lite1", (LITE,), scaled(f"{LITE}.running_var", 6), "running variance x 6"),
    Fault(STALE, "efficientnet_lite1", ("_bn0",), data(lambda x: x / 6), "data / 6"),
    Fault(STALE, "wine_bn", ("1",), data(lambda x: 5 * x + 3), "data on another scale"),
    Fault(STALE, "residual_bn", ("3.norm",), reset("3.norm"), "one never updated"),
    Fault(STALE, "generator", ("1",), reset(), "none ever updated"),
    Fault("stale_channels", "resnet", ("5.bn1",), set_to("5.bn1.running_var", 1e-5, 3), "one near 0"),
    Fault("stale_channels", "preact_bn", ("4.body.0",), spliced("4.body.0", 2), "another's running mean"),
    Fault("norm_unlike_peers", "vit", ("encoder.layers.2.norm1",),
          scaled("encoder.layers.2.norm1.weight", 0.02), "weight x .02"),
    Fault("norm_unlike_peers", "deep_pre", ("layers.7.norm2",), scaled("layers.7.norm2.weight", 50), "x 50"),
    Fault(SMALL_EPS, "preact_in", ("4.body.0",), eps("4.body.0", 100.0), "eps 100 of an InstanceNorm"),
    Fault("running_variance_invalid", "plain_cnn_bn", ("5",), set_to("5.running_var", -1e-3, 2), "negative"),
    Fault("batchnorm_train_mode", "resnet", ("8.bn1",), training("8.bn1"), "one in train mode", "as_is"),
    Fault("small_batch_statistics", "mlp_elu_bn", ("1", "4"), small(3), "batches of 3", "train"),
    Fault("frozen_but_updating", "resnet", ("5.bn1",), frozen("5.bn1"), "one frozen", "train"),
    Fault("updated_twice", "preact_bn", ("3.body.3",), twice("3.body.3"), "two updates a forward", "train"),
    Fault(DEAD, "mlp_wide", ("2", "4"), set_to("2.bias", -40, half(512)), "bias -40 in 60 %"),
    Fault(DEAD, "plain_cnn_bn", ("5",), set_to("5.bias", -20, half(16)), "bias -20 in 60 % of a BatchNorm"),
    Fault(DEAD, "bags_bn", ("1", "3"), set_to("1.bias", -20, half(64)), "bias -20 in 60 % of a BatchNorm"),
    Fault("constant_features", "resnet", ("6.bn1",), set_to("6.bn1.weight", 0, slice(12)), "38 % zero"),
    Fault("constant_features", "vit", ("encoder.layers.3.norm1",),
          set_to("encoder.layers.3.norm1.weight", 0), "weight 0"),
    Fault("constant_features", "r_mistral", ("layers.1.input_layernorm",),
          set_to("layers.1.input_layernorm.weight", 0), "weight 0"),
    Fault("saturated_input", "mlp_sigmoid", ("2", "4"), scaled("2.weight", 200), "weight x 200"),
    Fault("outlier_norm_weight", "vit", ("norm",), set_to("norm.weight", 25, 7), "one weight 25"),
    Fault("massive_activations", "r_cohere", ("layers.1.mlp.down_proj",),
          spike("layers.1.mlp.down_proj", 4000), "4,000 written once"),
    Fault("outlier_features", "r_gpt2_deep", ("h.8.ln_2", "h.8.attn.c_proj"),
          set_to("h.8.attn.c_proj.bias", 80, 5), "one bias 80"),
    Fault("outlier_sample", "wine_ln", ("0",), wild(200), "one x 200"),
    Fault("outlier_sample", "siren", ("0",), wild(1000), "one x 1,000"),
    Fault("input_scale", "iris", ("0",), data(scattered), "scales from 0.001 to 1,000"),
    Fault(GROWS, "mlp_selu", tuple(map(str, range(0, 21, 2))), all_linear(3), "all x 3"),
    Fault(GROWS, "he_fresh", tuple(map(str, range(0, 17, 2))), all_linear(2.5), "all x 2.5"),
    Fault(GROWS, "char_gpt", ("blocks.layers.2.linear2",),
          scaled("blocks.layers.2.linear2.weight", 20), "one x 20"),
    Fault(GROWS, "minilm_bf16", (f"{MINI}.4.intermediate.dense",),
          scaled(f"{MINI}.4.intermediate.dense.weight", 20), "one x 20"),
    Fault(SHRINKS, "deep_pre", ("layers.11.linear2",), scaled("layers.11.linear2.weight", 0.02), "one x .02"),
    Fault(SHRINKS, "residual_deep", ("9.up",), scaled("9.up.weight", 0.02), "one x .02"),
    Fault(ALIKE, "vit", ("encoder.layers.0.norm1",), first_of_each, "all data the same"),
    Fault(ALIKE, "r_deit", ("layers.0.layernorm_before",), same_pixels, "all data the same"),
    Fault(ALIKE, "autoencoder", ("0.4", "1.0"), set_to("0.4.weight", 0), "weight 0"),
    Fault("nonfinite", "r_albert", (f"{ALBERT}.key",),
          set_to(f"{ALBERT}.key.weight", torch.nan, (0, 0)), "NaN in a shared layer"),
    Fault("nonfinite", "char_lstm", ("head",), set_to("head.weight", torch.inf, (3, 3)), "Inf"),
    Fault("fp16_overflow", "minilm_fp16", (f"{MINI}.2.output.dense", f"{MINI}.2.output.LayerNorm"),
          added(f"{MINI}.2.output.dense.bias", 4e4, 2), "bias + 40,000"),
    Fault(SMALL_EPS, "r_gemma3", ("layers.1.input_layernorm",), eps("layers.1.input_layernorm", 10), "10"),
    Fault(SMALL_EPS, "preact_gn", ("4.body.0",), eps("4.body.0", 100.0), "eps 100"),
    Fault("nearly_constant_rows", "mixer", ("2.norm1", "2.norm2"), added("1.bias", 300), "bias + 300"),
    Fault("padding_unmasked", "r_mpnet", ("embeddings.LayerNorm",), data(unmasked), "no attention_mask"),
    Fault("padding_unmasked", "r_llama_deep", ("layers.0.input_layernorm",), data(unmasked), "padded left"),
    Fault("padding_unmasked", "r_gpt2_deep", ("h.0.ln_1",), data(unmasked), "padded left, no attention_mask"),
    Fault("padding_unmasked", "r_phi", ("layers.0.input_layernorm",), data(padded), "no attention_mask"),
)  # fmt: skip
"""Faults of the held-out set, in the order of the checks' table."""
