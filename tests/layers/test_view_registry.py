"""How the tensors of every layer type read as rows x features, and the registry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import ViewError
from normprobe.layers import view_registry
from normprobe.layers.candidates import view_by_rule
from normprobe.layers.module_attributes import eps_of
from normprobe.layers.to_rows import arrange
from normprobe.layers.view import View
from normprobe.layers.view_registry import register_view, registered_view


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry whose changes end with the test."""
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))
    return


def view_of(module: nn.Module) -> View | None:
    registered, view = registered_view(module)
    return view if registered else view_by_rule(module)


def counting(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


class Named(nn.Module):
    """A module with one vector, to be given any class name."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x


def named(name: str, **attributes: object) -> nn.Module:
    return type(name, (Named,), {})(**attributes)


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


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(3, 4, 1), nn.Embedding(3, 4), nn.ReLU(), nn.Dropout(), nn.Bilinear(2, 2, 2), nn.Identity()],
    ids=lambda module: type(module).__name__,
)
def test_what_is_no_layer_has_no_view(module: nn.Module) -> None:
    assert view_of(module) is None


@pytest.mark.parametrize(
    ("name", "attributes", "kind", "axis"),
    [
        ("MyRMSNorm", {}, "rms_norm", -1),
        ("LlamaRmsnorm", {}, "rms_norm", -1),
        ("FancyLayerNorm", {}, "layer_norm", -1),
        ("FancyLayerNorm2d", {}, "layer_norm", 1),
        ("ChannelsLayerNorm", {"data_format": "channels_first"}, "layer_norm", 1),
        ("ChannelsLayerNorm", {"data_format": "channels_last"}, "layer_norm", -1),
        ("FrozenBatchNorm2d", {}, "batch_norm", 1),
        ("MyInstanceNorm", {}, "instance_norm", 1),
        ("MyGroupNorm", {}, "group_norm", 1),
        ("Renormalizer", {}, "norm", -1),
        ("Scaler", {"variance_epsilon": 1e-6}, "norm", -1),
        ("Scaler", {"rms_norm_eps": 1e-6}, "norm", -1),
        ("Tracker", {"eps": 1e-5, "running_mean": 0, "running_var": 1}, "batch_norm", 1),
    ],
)
def test_names_and_buffers_of_unknown_norms(
    name: str, attributes: dict[str, object], kind: str, axis: int
) -> None:
    view = view_of(named(name, **attributes))
    assert view is not None
    assert (view.kind, view.axis, view.certain) == (kind, axis, False)


def test_an_eps_must_be_a_float() -> None:
    assert view_of(named("Scaler", eps=1)) is None
    assert view_of(named("Scaler", eps=None)) is None
    assert eps_of(nn.LayerNorm(3, eps=1e-3)) == 1e-3
    assert eps_of(nn.RMSNorm(3)) is None


def test_a_quantized_linear_whose_weight_is_a_method_is_linear() -> None:
    class QuantizedLinear(nn.Module):
        in_features, out_features = 3, 4

        def weight(self) -> Tensor:
            return torch.zeros(4, 3)

    view = view_of(QuantizedLinear())
    assert view is not None
    assert view.kind == "linear"


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


def test_positions_of_the_last_axis() -> None:
    values = counting(2, 3, 4)
    arranged = arrange(View("linear"), values)
    assert arranged.values.shape == (6, 1, 4)
    assert (arranged.leading, arranged.inner) == ((2, 3), ())
    assert torch.equal(arranged.values.reshape(2, 3, 4), values)


def test_a_single_vector_is_one_sample() -> None:
    arranged = arrange(View("linear"), counting(4))
    assert arranged.values.shape == (1, 1, 4)
    assert (arranged.leading, arranged.inner) == ((), ())


def test_several_normalized_axes_are_features_in_row_major_order() -> None:
    values = counting(5, 2, 3, 4)
    arranged = arrange(View("layer_norm", trailing=2), values)
    assert arranged.values.shape == (10, 1, 12)
    assert arranged.leading == (5, 2)
    assert torch.equal(arranged.values[3, 0], values[1, 1].flatten())
    assert arrange(View("layer_norm", trailing=2), counting(3, 4)).values.shape == (1, 1, 12)


def test_channels_of_an_example_have_a_row_per_pixel() -> None:
    values = counting(2, 3, 4, 5)
    arranged = arrange(View("batch_norm", 1, "example"), values)
    assert arranged.values.shape == (2, 20, 3)
    assert (arranged.leading, arranged.inner) == ((2,), (4, 5))
    assert torch.equal(arranged.values[1, 7], values[1, :, 1, 2])
    assert arrange(View("batch_norm", 1, "example"), counting(6, 3)).values.shape == (6, 1, 3)


def test_positions_over_the_channel_axis() -> None:
    values = counting(2, 3, 4, 5)
    arranged = arrange(View("layer_norm", 1), values)
    assert arranged.values.shape == (40, 1, 3)
    assert arranged.leading == (2, 4, 5)
    assert torch.equal(arranged.values[27, 0], values[1, :, 1, 2])


def test_an_instance_norm_takes_an_input_without_a_batch() -> None:
    view = view_of(nn.InstanceNorm2d(3))
    assert view is not None
    assert arrange(view, counting(3, 4, 5)).values.shape == (1, 20, 3)
    assert arrange(view, counting(2, 3, 4, 5)).values.shape == (2, 20, 3)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_tensors_are_arranged(shape: tuple[int, ...]) -> None:
    for view in (View("linear"), View("layer_norm", trailing=2), View("batch_norm", 1, "example")):
        arranged = arrange(view, torch.zeros(shape))
        assert arranged.values.numel() == 0
        assert arranged.values.shape[0] == np.prod(arranged.leading)


def test_arranging_copies_nothing_that_it_need_not() -> None:
    values = counting(2, 3, 4, 5)
    for view in (View("linear"), View("layer_norm", trailing=3), View("batch_norm", 1, "example")):
        assert arrange(view, values).values.data_ptr() == values.data_ptr()


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (View("batch_norm", 1, "example"), (4,)),
        (View("linear"), ()),
        (View("layer_norm", trailing=3), (2, 3)),
    ],
)
def test_too_few_axes_are_an_error_that_says_so(view: View, shape: tuple[int, ...]) -> None:
    with pytest.raises(ViewError, match=r"a tensor of shape \(.*\) has no feature axis"):
        arrange(view, torch.zeros(shape))


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
