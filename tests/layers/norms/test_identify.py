"""What a norm's call shows: axis, sample, kind and scale, whatever its name says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.states import settling
from normprobe.capture.states.layer_state import MOST_UNDECIDED
from normprobe.layers.find import find_layers
from normprobe.layers.norms.identify import NO_NORM, UNCONFIRMED, UNKNOWN, Identification, identify
from normprobe.layers.view import View
from tests.helpers.handwritten_norms import (
    CASES,
    TIME,
    Base,
    CentredRMSNorm,
    IdentityNorm,
    LastAxisBatchNorm,
    MiddleLayerNorm,
    NoNorm,
    PlainLayerNorm,
    PlainRMSNorm,
    ResidualGate,
    UncentredLayerNorm,
    UnitOffsetRMSNorm,
)


def data(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(*shape, generator=generator)
    return (values * (torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) + 0.5) + 0.5).to(
        dtype
    )


def called(module: nn.Module, x: Tensor, **options: bool) -> Identification:
    """What one call of a module shows, with a second tensor where its forward takes one."""
    view = find_layers(module).layers[0].view
    more = () if module.forward.__code__.co_argcount < 3 else (data(*x.shape).flip(0) - 1,)
    with torch.no_grad():
        output = module(x.clone(), *more)
    after = output[0] if isinstance(output, tuple) else output
    others = dict(zip(("its second argument",), more, strict=False))
    return identify(module, view, x, after, others, **options)


def shown(identification: Identification) -> tuple[str, int, str, float | None]:
    view = identification.view
    return view.kind, view.axis, view.sample, identification.offset


@pytest.mark.parametrize(
    ("cls", "shape", "expected"), CASES, ids=[f"{cls.__name__}{shape}" for cls, shape, _ in CASES]
)
def test_the_way_of_working_is_found(
    cls: type[nn.Module], shape: tuple[int, ...], expected: tuple[str, int, str, float | None]
) -> None:
    module = (cls(12) if issubclass(cls, nn.modules.batchnorm._NormBase | nn.LayerNorm) else cls()).eval()
    identification = called(module, data(*shape))
    assert shown(identification) == expected
    assert identification.decided


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cls", [PlainLayerNorm, PlainRMSNorm, UnitOffsetRMSNorm, UncentredLayerNorm])
def test_in_other_dtypes(cls: type[nn.Module], dtype: torch.dtype) -> None:
    expected = {case: expected for case, shape, expected in CASES if shape == TIME}[cls]
    assert shown(called(cls().to(dtype), data(4, 30, 12, dtype=dtype))) == expected


def test_what_contradicts_the_class_is_said() -> None:
    x = data(*TIME)
    assert called(UncentredLayerNorm(), x).reason == "its class says layer_norm, what it computes is rms_norm"
    assert called(CentredRMSNorm(), x).reason == "its class says rms_norm, what it computes is layer_norm"
    moved = called(MiddleLayerNorm(12), data(3, 12, 7)).reason
    assert moved == "what it computes shows features along axis 1, samples of one position"
    moved = called(LastAxisBatchNorm(12).eval(), x).reason
    assert moved == "what it computes shows features along the last axis, samples of one example"
    assert called(PlainLayerNorm(), x).reason == ""


@pytest.mark.parametrize(
    ("module", "reason"),
    [(NoNorm(), NO_NORM), (IdentityNorm(), NO_NORM)],
    ids=["NoNorm", "identity"],
)
def test_what_does_not_normalize_is_said(module: nn.Module, reason: str) -> None:
    identification = called(module, data(3, 30, 12) * 2)
    assert (identification.decided, identification.reason, identification.offset) == (True, reason, None)
    assert (identification.view.kind, identification.view.axis) == ("norm", -1)


def test_what_has_an_eps_alone_and_does_not_normalize_is_refused() -> None:
    identification = called(ResidualGate(), data(3, 30, 12) * 2)
    assert (identification.decided, identification.reason) == (True, "")
    why = "what it computes is no known normalization"
    assert identification.refused == UNCONFIRMED.format("its eps", why)


class SineNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin().flip(-1)


def test_what_no_formula_reproduces() -> None:
    assert called(SineNorm(), data(3, 30, 12)).reason == UNKNOWN


def uninformative(name: str) -> Tensor:
    """A call that cannot tell."""
    x = torch.zeros(*TIME)
    return {
        "zeros": x,
        "constant": x + 3,
        "constant rows": x + torch.arange(7.0)[:, None],
        "nan": x * float("nan"),
        "large constant": x + 1e6,
    }[name]


@pytest.mark.parametrize("name", ["zeros", "constant", "constant rows", "nan", "large constant"])
@pytest.mark.parametrize("cls", [UncentredLayerNorm, CentredRMSNorm, PlainLayerNorm, UnitOffsetRMSNorm])
def test_a_call_that_cannot_tell_decides_nothing(cls: type[nn.Module], name: str) -> None:
    identification = called(cls(), uninformative(name))
    assert not identification.decided
    assert identification.view == find_layers(cls()).layers[0].view
    assert identification.reason == ""


def test_weights_of_zero_cannot_tell() -> None:
    module = UncentredLayerNorm()
    nn.init.zeros_(module.weight)
    assert not called(module, data(*TIME)).decided


def test_zero_mean_data_cannot_tell_whether_it_is_subtracted() -> None:
    x = data(*TIME, dtype=torch.float64)
    identification = called(UncentredLayerNorm().double(), x - x.mean(-1, keepdim=True))
    assert (identification.decided, identification.view.kind, identification.offset) == (
        False,
        "layer_norm",
        0.0,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_axis_is_found_where_rounding_hides_the_kind(dtype: torch.dtype) -> None:
    x = data(3, 12, 7)
    x = (x - x.mean(1, keepdim=True)).to(dtype)
    identification = called(MiddleLayerNorm(12).to(dtype), x)
    assert (identification.decided, identification.view.kind, identification.view.axis) == (
        False,
        "layer_norm",
        1,
    )
    assert identification.reason == "what it computes shows features along axis 1, samples of one position"
    again = called(MiddleLayerNorm(12).to(dtype), x, recorded=True)
    assert (again.decided, again.view.axis, again.reason) == (False, -1, "")


def test_rows_that_are_not_finite_are_passed_over() -> None:
    x = data(*TIME)
    x[1, 2, 3], x[0, 0, 5] = float("nan"), float("inf")
    assert shown(called(UncentredLayerNorm(), x)) == ("rms_norm", -1, "position", 0.0)


def test_a_single_row_is_enough_for_a_formula() -> None:
    assert shown(called(UncentredLayerNorm(), data(1, 1, 12))) == ("rms_norm", -1, "position", 0.0)


def test_rows_are_taken_from_the_whole_of_a_long_tensor() -> None:
    class Half(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.spread(x[:300], -1, centred=True), x[300:].sin()])

    norm = Half()
    x = data(511, 12)
    assert identify(norm, View("layer_norm"), x, norm(x)).reason == UNKNOWN


def test_a_large_shift_hides_a_call_in_bfloat16() -> None:
    module = PlainRMSNorm().bfloat16()
    nn.init.constant_(module.bias, 1000.0)
    assert not called(module, data(*TIME, dtype=torch.bfloat16)).decided


def test_an_axis_already_recorded_stays_and_that_is_said() -> None:
    identification = called(MiddleLayerNorm(12), data(3, 12, 12), recorded=True)
    assert (identification.view.kind, identification.view.axis, identification.decided) == (
        "layer_norm",
        -1,
        True,
    )
    assert "were read as features along the last axis" in identification.reason
    identification = called(UncentredLayerNorm(), data(*TIME), recorded=True)
    assert (identification.view.kind, identification.decided) == ("rms_norm", True)


def test_numbers_that_are_no_floats_are_left_to_the_name() -> None:
    x = torch.arange(24).reshape(2, 12)
    assert identify(PlainLayerNorm(), View("layer_norm"), x, x) == Identification(
        View("layer_norm"), 0.0, True
    )
    meta = torch.empty(2, 12, device="meta")
    assert identify(PlainLayerNorm(), View("layer_norm"), meta, meta) == Identification(
        View("layer_norm"), 0.0, False
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_components_of_a_nested_tensor_are_its_rows() -> None:
    module = UncentredLayerNorm()
    parts = [data(n, 12) for n in (3, 5)]
    x, y = (torch.nested.nested_tensor(list(values)) for values in (parts, map(module, parts)))
    assert shown(identify(module, View("layer_norm"), x, y.detach())) == ("rms_norm", -1, "position", 0.0)


def test_the_random_numbers_of_torch_are_left_alone() -> None:
    before = torch.get_rng_state()
    called(ResidualGate(), data(3, 30, 12))
    assert torch.equal(before, torch.get_rng_state())


class Wrapped(nn.Module):
    """A model of one norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_a_warm_up_of_zeros_settles_nothing() -> None:
    zeros, x = torch.zeros(*TIME), data(*TIME)
    model = Wrapped(UncentredLayerNorm())
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(zeros)
        assert probe.recording.ledger["kind"].tolist() == ["layer_norm"]
        model(x)
    recording = probe.recording
    row = recording.ledger.iloc[0]
    assert (row["kind"], row["calls"]) == ("rms_norm", 2)
    assert row["reason"] == "its class says layer_norm, what it computes is rms_norm"
    seen = recording.features.query("site == 'input' and feature == 0").iloc[0]
    both = torch.cat([zeros, x]).double()[..., 0]
    assert seen["count"] == both.numel()
    assert seen["variance"] == pytest.approx(both.var(correction=0).item(), rel=1e-6)


def test_the_offset_of_a_weight_is_found_after_a_warm_up() -> None:
    model = Wrapped(UnitOffsetRMSNorm())
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(torch.zeros(*TIME))
        model(data(*TIME))
    applied = probe.recording.features.query("site == 'output'")["weight"]
    assert applied.tolist() == pytest.approx((1 + model.norm.weight).tolist())


def test_an_axis_seen_too_late_is_said() -> None:
    model = Wrapped(MiddleLayerNorm(12))
    nn.init.normal_(model.norm.weight)
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(torch.zeros(3, 12, 12))
        model(data(3, 12, 12))
    row = probe.recording.ledger.iloc[0]
    assert row["calls"] == 2
    assert "shows features along axis 1" in row["reason"]


def test_an_axis_is_found_by_the_first_call() -> None:
    model = Wrapped(MiddleLayerNorm(12))
    x = data(3, 12, 7)
    recording = normprobe.record(model, [x])
    features = recording.features.query("site == 'input'")
    assert features["mean"].tolist() == pytest.approx(x.double().mean((0, 2)).tolist(), abs=1e-7)


def test_calls_that_cannot_tell_are_asked_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        settling, "identify", lambda *args, **kwargs: asked.append(1) or identify(*args, **kwargs)
    )
    model = Wrapped(UncentredLayerNorm())
    with normprobe.Probe(model) as probe, torch.no_grad():
        for _ in range(MOST_UNDECIDED + 5):
            model(torch.zeros(*TIME))
    assert len(asked) == MOST_UNDECIDED
    assert probe.recording.ledger["calls"].tolist() == [MOST_UNDECIDED + 5]
    assert probe.recording.ledger["kind"].tolist() == ["layer_norm"]


class NormOfLocalEps(nn.Module):
    """A LayerNorm whose eps is a constant of its forward, as OLMo's."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.of_forward = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], eps=self.of_forward)


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_an_eps_that_is_no_attribute_is_known_by_what_the_norm_computes(eps: float, scale: float) -> None:
    found = called(NormOfLocalEps(eps), scale * data(64, 16))
    assert found.view.kind == "layer_norm"
    assert found.eps == eps
    assert found.factor == 1.0
