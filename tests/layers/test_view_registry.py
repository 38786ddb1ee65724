"""The registry: the views of torch's layers, and of layers of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import ViewError
from normprobe.layers import view_registry
from normprobe.layers.view import View
from normprobe.layers.view_registry import register_view, registered_view


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry whose changes end with the test."""
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))
    return


def view_of(module: nn.Module) -> View | None:
    return registered_view(module)[1]


TYPES = [
    (nn.Linear(3, 4), "linear", -1, "position", 1),
    (nn.LazyLinear(4), "linear", -1, "position", 1),
    (nn.LayerNorm(4), "layer_norm", -1, "position", 1),
    (nn.LayerNorm((3, 4)), "layer_norm", -1, "position", 2),
    (nn.RMSNorm((2, 3, 4)), "rms_norm", -1, "position", 3),
    (nn.BatchNorm1d(4), "batch_norm", 1, "example", 1),
    (nn.BatchNorm2d(4), "batch_norm", 1, "example", 1),
    (nn.BatchNorm3d(4), "batch_norm", 1, "example", 1),
    (nn.SyncBatchNorm(4), "batch_norm", 1, "example", 1),
    (nn.LazyBatchNorm2d(), "batch_norm", 1, "example", 1),
    (nn.InstanceNorm1d(4), "instance_norm", 1, "example", 1),
    (nn.InstanceNorm2d(4), "instance_norm", 1, "example", 1),
    (nn.GroupNorm(2, 4), "group_norm", 1, "example", 1),
    (nn.LocalResponseNorm(2), "norm", 1, "position", 1),
    (nn.CrossMapLRN2d(2), "norm", 1, "position", 1),
]


@pytest.mark.parametrize(
    ("module", "kind", "axis", "sample", "trailing"), TYPES, ids=[type(case[0]).__name__ for case in TYPES]
)
def test_the_layers_of_torch(module: nn.Module, kind: str, axis: int, sample: str, trailing: int) -> None:
    view = view_of(module)
    assert view is not None
    assert (view.kind, view.axis, view.sample, view.trailing) == (kind, axis, sample, trailing)
    assert view.certain


def test_a_subclass_with_a_forward_of_its_own_is_not_certain() -> None:
    class Upcast(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input.float())

    class Plain(nn.LayerNorm):
        pass

    class Channels(nn.LayerNorm):
        data_format = "channels_first"

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input.movedim(1, -1)).movedim(-1, 1)

    found = [view_of(cls(4)) for cls in (Upcast, Plain, Channels)]
    assert [(view.kind, view.certain, view.axis) for view in found if view] == [
        ("layer_norm", False, -1),
        ("layer_norm", True, -1),
        ("layer_norm", False, 1),
    ]


@pytest.mark.usefixtures("registry")
class TestRegistry:
    def test_a_layer_of_ones_own_and_its_subclasses(self) -> None:
        class Mine(nn.Module):
            pass

        class Yours(Mine):
            pass

        register_view(Mine, kind="norm", axis=1, sample="example")
        for module in (Mine(), Yours()):
            assert registered_view(module) == (True, View("norm", 1, "example", certain=True))

    def test_none_means_never(self) -> None:
        register_view(nn.Linear, kind=None)
        assert registered_view(nn.Linear(2, 2)) == (True, None)
        with pytest.raises(normprobe.NoLayersError, match="has no Linear or normalization layer"):
            normprobe.Probe(nn.Linear(2, 2))

    def test_the_nearest_class_decides(self) -> None:
        class Special(nn.Linear):
            pass

        register_view(Special, kind="norm")
        assert registered_view(Special(2, 2))[1] == View("norm", certain=True)
        assert registered_view(nn.Linear(2, 2))[1] == View("linear", certain=True)

    @pytest.mark.parametrize("weight", ["gain", lambda module: module.gain])
    def test_the_scale_under_another_name(self, weight: object) -> None:
        class Gained(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gain = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

            def forward(self, x: Tensor) -> Tensor:
                return nn.functional.rms_norm(x, (3,)) * self.gain

        register_view(Gained, kind="rms_norm", weight=weight)
        features = normprobe.record(Gained(), torch.randn(5, 3)).features
        assert features.query("site == 'output'")["weight"].tolist() == [1.0, 2.0, 3.0]

    def test_a_scale_that_is_not_there_is_not_an_error_of_the_forward(self) -> None:
        class Bare(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * 2

        register_view(Bare, kind="norm", weight="gain")
        recording = normprobe.record(Bare(), torch.randn(5, 3))
        assert recording.features["weight"].isna().all()
        assert recording.layers["n_samples"].tolist() == [5, 5]

    @pytest.mark.parametrize(
        ("cls", "options", "message"),
        [
            (3, {"kind": "norm"}, "needs a subclass of torch.nn.Module, got 3"),
            (int, {"kind": "norm"}, "needs a subclass of torch.nn.Module"),
            (nn.Linear(2, 2), {"kind": "norm"}, "needs a subclass of torch.nn.Module"),
            (nn.ReLU, {"kind": "layernorm"}, "kind 'layernorm' of ReLU is unknown; choose one of linear, "),
            (
                nn.ReLU,
                {"kind": "norm", "sample": "row"},
                "sample 'row' of ReLU is unknown; choose 'position'",
            ),
            (nn.ReLU, {"kind": "norm", "axis": "last"}, "axis 'last' of ReLU is no whole number"),
            (nn.ReLU, {"kind": "norm", "weight": 3}, "weight 3 of ReLU is neither a name nor a function"),
        ],
    )
    def test_wrong_declarations_are_refused(
        self, cls: type[nn.Module], options: dict[str, str], message: str
    ) -> None:
        with pytest.raises(ViewError, match=message):
            register_view(cls, **options)
        assert registered_view(nn.ReLU()) == (False, None)
