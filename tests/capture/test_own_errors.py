"""Nothing that a probe does of its own accord raises into the user's forward, or loses the recording."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.forwards.forward import Forwards
from normprobe.capture.forwards.run_info import RunInfo
from normprobe.capture.functions.function_mode import FunctionCapture
from normprobe.capture.functions.function_session import FunctionSession
from normprobe.capture.measure import Measurer
from normprobe.divergence.same_data import pair_data


class Second(nn.Module):
    """A network whose layers read its second argument; the first is for it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, first: Any, x: Tensor, attention_mask: Any = None) -> Tensor:
        result: Tensor = self.norm(self.linear(x))
        return result


def masked(size: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.masked.masked_tensor(torch.eye(size), torch.eye(size).bool())


FIRST: dict[str, Callable[[int], Any]] = {
    "coo": lambda size: torch.eye(size).to_sparse(),
    "csr": lambda size: torch.eye(size).to_sparse_csr(),
    "csc": lambda size: torch.eye(size).to_sparse_csc(),
    "mkldnn": lambda size: torch.eye(size).to_mkldnn(),
    "masked": masked,
    "quantized": lambda size: torch.quantize_per_tensor(torch.eye(size), 0.1, 0, torch.quint8),
    "complex": lambda size: torch.eye(size, dtype=torch.complex64),
    **{
        name: lambda size, name=name: torch.empty(size, size, dtype=getattr(torch, name))
        for name in ("uint4", "int3", "uint16", "uint32", "float8_e4m3fn", "bits8")
        if hasattr(torch, name)
    },
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:.*(beta state|quantized):UserWarning")
@pytest.mark.parametrize("size", [20, 200])  # pending, or fingerprinted at once
@pytest.mark.parametrize("kind", FIRST)
def test_any_first_argument_is_measured_and_the_recording_kept(kind: str, size: int) -> None:
    first, x = FIRST[kind](size), torch.randn(size, 8)
    model = Second()
    with normprobe.Probe(model, part="a") as probe:
        model(first, x)
    recording = probe.recording
    assert recording.meta["forwards"] == recording.meta["measured"] == 1
    assert recording.ledger["status"].tolist() == ["fired", "fired"]
    row = recording.layers.iloc[0]
    assert row["variance"] == pytest.approx(x.double().var(correction=0).item(), rel=1e-6)
    known = recording.tables.facts["digests"]["a"][1] != 0
    assert known or recording.meta["warnings"] or kind in ("quantized", "complex")


def test_what_has_no_fingerprint_is_said_and_is_no_others_data() -> None:
    model, x = Second(), torch.randn(20, 8)
    with normprobe.Probe(model, part="a") as probe:
        model(torch.randn(20, 8), x)
        model(torch.eye(20).to_sparse(), x)
    recording = probe.recording
    assert recording.meta["warnings"] == [
        "the data have no fingerprint, for the first argument of a forward is a Tensor of float32 and layout "
        "sparse_coo: RuntimeError: reshape is not implemented for sparse tensors"
    ]
    tables = recording.tables
    assert tables.facts["digests"] == {"a": [40, 0]}
    assert pair_data(tables, tables, None, []).how != "digests"


def test_a_mask_of_a_form_of_its_own_is_said() -> None:
    model = Second()
    with normprobe.Probe(model) as probe:
        model(torch.randn(4, 8), torch.randn(4, 8), attention_mask=torch.ones(4, 8).to_sparse())
    (warning,) = probe.recording.meta["warnings"]
    assert warning.startswith("no padding mask was found in a forward whose arguments could not be read: ")
    assert probe.recording.ledger["calls"].tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore:nothing was measured")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (RunInfo, "add"),
        (Measurer, "begin"),
        (Measurer, "observe"),
        (FunctionCapture, "open"),
        (FunctionCapture, "enter"),
        (FunctionCapture, "leave"),
        (FunctionSession, "layer_of"),
        (Forwards, "begin"),
        (Forwards, "end"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_step_of_its_own_raises_into_a_forward(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("a defect")

    model, x = Second(), torch.randn(20, 8)
    expected = model(x, x)
    with normprobe.Probe(model) as probe, monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        assert torch.equal(model(x, x), expected)
    recording = probe.recording
    said = [*recording.meta["warnings"], *recording.ledger["reason"]]
    assert name == "layer_of" or any("a defect" in text for text in said)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class OwnError(ValueError):
    """An error of the user's own."""


@pytest.mark.parametrize("option", ["mask", "labels"])
def test_an_error_of_the_users_function_is_theirs_and_no_forward_is_counted(option: str) -> None:
    calls: list[int] = []

    def sometimes(args: Any, kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OwnError("mine")
        return torch.ones(5, 8) if option == "mask" else [["a"]] * 5

    model, x = Second(), torch.randn(5, 8)
    options: Any = {option: sometimes}
    with normprobe.Probe(model, **options) as probe:
        model(x, x)
        with pytest.raises(OwnError) as raised:
            model(x, x)
        model(x, x)
    assert raised.value.__notes__ == [
        "raised by what normprobe.Probe was given: its mask, labels, on_finding or stop_on"
    ]
    meta = probe.recording.meta
    assert (meta["forwards"], meta["measured"], meta["examples"]) == (2, 2, 10)
    assert probe.recording.ledger["calls"].tolist() == [2, 2]
