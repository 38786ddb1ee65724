"""Models of images: timm, vit-pytorch, MONAI and others, each with norms of its own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.survey.libraries.entry import Entry, bare_package, entry, numbers

IMAGE, SMALL = numbers(2, 3, 64, 64), numbers(2, 3, 32, 32)


def timm() -> Iterator[Entry]:
    """A small model of each family with norms of its own."""
    _timm_without_data()
    import timm as library

    names = [
        "test_byobnet",
        "test_convnext",
        "test_convnext2",
        "test_convnext3",
        "test_efficientnet",
        "test_efficientnet_evos",
        "test_efficientnet_gn",
        "test_efficientnet_ln",
        "test_mambaout",
        "test_nfnet",
        "test_resnet",
        "test_vit",
        "test_vit2",
        "test_vit3",
        "test_vit4",
        "resnet10t",
    ]
    for name in names:
        options: dict[str, Any] = {"img_size": 64} if name.startswith(("test_vit", "xcit")) else {}
        size = 64
        yield entry(
            name,
            lambda name=name, options=options: library.create_model(name, num_classes=5, **options),
            numbers(2, 3, size, size),
        )
    yield from _timm_parts()
    for name in ("test_efficientnet", "test_resnet"):
        yield entry(
            f"{name}.train", lambda name=name: library.create_model(name, num_classes=5), IMAGE, train=True
        )
    yield entry("test_efficientnet.frozen", _frozen, IMAGE, train=True)


def _timm_parts() -> Iterator[Entry]:
    """Norms, with an activation and without, that no test model of timm has, and a small RegNet."""
    import timm.layers as parts
    from timm.models.regnet import RegNet, RegNetCfg

    sizes = RegNetCfg(depth=5, w0=8, wa=16.0, wm=1.5, group_size=8)
    yield entry("regnet", lambda: RegNet(sizes, num_classes=5), IMAGE)
    names = [
        "BatchNormAct2d",
        "GroupNormAct",
        "GroupNorm1Act",
        "LayerNormAct",
        "LayerNormAct2d",
        "RmsNorm2d",
        "RmsNormAct2d",
        "SimpleNorm",
        "FilterResponseNormTlu2d",
        "FilterResponseNormAct2d",
        "EvoNorm2dB0",
        "EvoNorm2dS0",
    ]
    for name in names:
        of_groups = {"GroupNormAct": {"num_groups": 4}, "EvoNorm2dS0": {"group_size": 8}}
        options: dict[str, Any] = of_groups.get(name, {})
        x = numbers(2, 12, 3) if name in ("LayerNormAct", "SimpleNorm") else SMALL
        first = lambda x=x: nn.Linear(3, 16) if x.dim() == 3 else nn.Conv2d(3, 16, 5)
        norm = lambda name=name, options=options: getattr(parts, name)(16, **options)
        yield entry(name, lambda first=first, norm=norm: nn.Sequential(first(), norm()), x)


def _frozen() -> nn.Module:
    import timm as library
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(library.create_model("test_efficientnet", num_classes=5))


def _timm_without_data() -> None:
    """Import timm with only the constants of its readers of data, which want torchvision.

    Its layers ask torchvision for one class, to know modules of that class when they meet one; no model here
    has one, so an empty class does.

    Raises:
        ImportError: it is not installed.
    """
    if "timm" in sys.modules:
        return
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise ImportError("timm is not installed")
    file = Path(found.submodule_search_locations[0]) / "data" / "constants.py"
    data = types.ModuleType("timm.data")
    exec(compile(file.read_text(), str(file), "exec"), vars(data))
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    absent = {name: types.ModuleType(name) for name in names}
    vars(absent["torchvision.ops.misc"])["FrozenBatchNorm2d"] = type("FrozenBatchNorm2d", (nn.Module,), {})
    sys.modules.update({"timm.data": data, **absent})
    try:
        for name in ("timm", "timm.layers", "timm.models", "timm.utils"):
            importlib.import_module(name)
    finally:
        for name in absent:
            del sys.modules[name]


_VIT: dict[str, Any] = dict(image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=48)
_VITS = {
    "vit": "ViT",
    "simple_vit": "SimpleViT",
    "simple_vit_with_qk_norm": "SimpleViT",
    "simple_vit_with_register_tokens": "SimpleViT",
    "vit_for_small_dataset": "ViT",
    "deepvit": "DeepViT",
    "parallel_vit": "ViT",
    "normalized_vit": "nViT",
}
_STAGES: dict[str, Any] = {
    "cvt": dict(
        s1_emb_dim=16,
        s1_heads=1,
        s1_depth=1,
        s2_emb_dim=32,
        s2_heads=1,
        s2_depth=1,
        s3_emb_dim=32,
        s3_heads=2,
    )
    | dict(s3_depth=1),
    "twins_svt": dict(s1_emb_dim=16, s2_emb_dim=16, s3_emb_dim=32, s4_emb_dim=32, s3_depth=1),
    "nest": dict(image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1)),
    "sep_vit": dict(dim=16, dim_head=16, heads=(1, 2), depth=(1, 1), window_size=7),
    "scalable_vit": dict(
        dim=16, heads=(1, 2), depth=(1, 1), ssa_dim_key=(16, 16), reduction_factor=(2, 1), window_size=(8, 8)
    ),
    "crossformer": dict(
        dim=(32, 32, 64, 64), depth=(1, 1, 1, 1), global_window_size=(4, 2, 2, 1), local_window_size=2
    ),
    "mobile_vit": dict(
        image_size=(64, 64), dims=[32, 48, 64], channels=[8, 8, 16, 16, 24, 24, 32, 32, 48, 48, 64]
    ),
}
_NAMES = {
    "cvt": "CvT",
    "twins_svt": "TwinsSVT",
    "nest": "NesT",
    "sep_vit": "SepViT",
    "scalable_vit": "ScalableViT",
    "crossformer": "CrossFormer",
    "mobile_vit": "MobileViT",
}


def vit_pytorch() -> Iterator[Entry]:
    """Vision transformers, many with norms over channels written out."""
    bare_package("vit_pytorch")  # it imports torchvision

    def cls(module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"vit_pytorch.{module}"), name)

    for module, name in _VITS.items():
        yield entry(module, lambda m=module, n=name: cls(m, n)(**_VIT), SMALL)
    fft = lambda: cls("simple_vit_with_fft", "SimpleViT")(freq_patch_size=8, **_VIT)
    yield entry("simple_vit_with_fft", fft, SMALL)
    yield entry("cait", lambda: cls("cait", "CaiT")(cls_depth=1, **_VIT), SMALL)
    for module, options in _STAGES.items():
        size = 224 if module in ("twins_svt", "sep_vit") else 32 if module == "nest" else 64
        make = lambda m=module, o=options: cls(m, _NAMES[m])(num_classes=5, **o)
        yield entry(module, make, numbers(2, 3, size, size))


def monai() -> Iterator[Entry]:
    """Networks of medical imaging, with instance, group and batch norms in three dimensions."""
    from monai.networks import nets

    volume = numbers(1, 1, 32, 32, 32)
    yield entry("UNet", lambda: nets.UNet(2, 3, 2, (8, 16, 32), (2, 2)), numbers(2, 3, 32, 32))
    yield entry(
        "UNet.group", lambda: nets.UNet(2, 3, 2, (8, 16), (2,), norm=("group", {"num_groups": 4})), SMALL
    )
    yield entry(
        "UNet.batch.train", lambda: nets.UNet(2, 3, 2, (8, 16), (2,), norm="batch"), SMALL, train=True
    )
    yield entry("SegResNet", lambda: nets.SegResNet(2, 8, 3, 2), SMALL)
    yield entry("DynUNet", lambda: nets.DynUNet(2, 3, 2, [3, 3, 3], [1, 2, 2], [2, 2]), SMALL)
    yield entry("UNETR", lambda: nets.UNETR(1, 2, (32, 32, 32), 8, 32, 48, 2), volume)
    yield entry(
        "SwinUNETR",
        lambda: nets.SwinUNETR(
            3, 2, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), feature_size=12, spatial_dims=2
        ),
        IMAGE,
    )
    yield entry("ViT", lambda: nets.ViT(3, (32, 32), (8, 8), 32, 48, 2, 2, spatial_dims=2), SMALL)
    yield entry("DenseNet", lambda: nets.DenseNet(2, 3, 5, 8, 4, (2, 2)), SMALL)
    yield entry("HighResNet", lambda: nets.HighResNet(2, 3, 2), SMALL)
    yield entry(
        "DiffusionModelUNet",
        lambda: nets.DiffusionModelUNet(
            2, 3, 3, (1, 1), (8, 16), (False, True), norm_num_groups=4, num_head_channels=8
        ),
        SMALL,
        timesteps=numbers(2).abs() * 100,
    )


def pytorchcv() -> Iterator[Entry]:
    """Convolutional networks of small images."""
    names = {
        "resnet20": "resnet_cifar",
        "preresnet20": "preresnet_cifar",
        "seresnet20": "seresnet_cifar",
        "diaresnet20": "diaresnet_cifar",
        "densenet40_k12": "densenet_cifar",
    }
    for name, module in names.items():
        make = getattr(importlib.import_module(f"pytorchcv.models.{module}"), f"{name}_cifar10")
        yield entry(name, make, SMALL)


def kornia() -> Iterator[Entry]:
    """Vision transformers and matchers."""
    from kornia.models.vit import VisionTransformer

    yield entry(
        "VisionTransformer",
        lambda: VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
        SMALL,
    )


LIBRARIES = {
    "timm": timm,
    "vit-pytorch": vit_pytorch,
    "monai": monai,
    "pytorchcv": pytorchcv,
    "kornia": kornia,
}
