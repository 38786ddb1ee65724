"""Batches as loaders for training give them: labels are left out, and said once, by every door."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import normprobe
from normprobe.capture.batches.batch_arguments import BatchArguments

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3
LOADER = DataLoader(TensorDataset(X, Y), batch_size=16)
SAID = "of each batch of 2 items the last item is left out, as labels are: the forward takes one"


class Named(nn.Module):
    """A model of keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)

    def forward(self, image: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.norm(self.linear(image)) * scale
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


def same(a: Any, b: Any) -> bool:
    return bool(np.allclose(a.layers["variance"], b.layers["variance"], rtol=1e-9))


WRAPPERS: dict[str, Any] = {
    "bare": lambda model: model,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "parallel": nn.DataParallel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_loader_of_pairs_is_recorded_as_its_inputs(wrapper: str) -> None:
    model = WRAPPERS[wrapper](net())
    recording = normprobe.record(model, LOADER)
    assert same(recording, normprobe.record(net(), list(X.split(16))))
    assert recording.meta["warnings"] == [SAID]
    assert str(recording.summary()).count(f"Note: {SAID}") == 1
    assert recording.meta["examples"] == 48


@pytest.mark.parametrize("batch", [[X, Y, Y], (X, Y, Y)], ids=["list", "tuple"])
def test_of_several_as_many_as_the_forward_takes(batch: Any) -> None:
    recording = normprobe.record(net(), [batch])
    assert recording.meta["warnings"] == [
        "of each batch of 3 items the last 2 items are left out, as labels are: the forward takes one"
    ]
    assert same(recording, normprobe.record(net(), [X]))


def test_recalibration_takes_the_loader_too() -> None:
    model, other = net(), net()
    moved = normprobe.batchnorm.recalibrate(model, LOADER)
    normprobe.batchnorm.recalibrate(other, list(X.split(16)))
    assert moved.attrs["warnings"] == [SAID]
    for own, expected in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(own, expected)
    want = net()[0](X).var(0, correction=1)  # type: ignore[index]
    assert torch.allclose(model[1].running_var, want, rtol=1e-5)  # type: ignore[index]


def test_models_side_by_side_take_the_loader_too() -> None:
    model = net()
    twin = copy.deepcopy(model)
    comparison = normprobe.compare_live(model, twin, LOADER)
    assert comparison.verdict_code == "equal"
    assert comparison.meta["warnings"] == [SAID]
    assert comparison.meta["examples"] == (48, 48)
    assert str(comparison).count("left out") == 1


def test_a_mapping_and_labels_are_the_mapping() -> None:
    batches = [({"image": x}, y) for x, y in zip(X.split(16), Y.split(16), strict=True)]
    recording = normprobe.record(Named().eval(), batches)
    assert recording.meta["examples"] == 48
    assert recording.meta["warnings"] == [SAID]


def test_labels_in_a_mapping_are_left_out_where_the_forward_has_none() -> None:
    recording = normprobe.record(Named().eval(), [{"image": X, "label": Y}])
    assert recording.meta["warnings"] == ["of each batch label left out: the forward has no such argument"]
    # A slip of the pen is no label.
    for batch in ({"imgae": X}, {"image": X, "scael": 2.0}, {"imgae": X, "label": Y}):
        with pytest.raises(normprobe.NormprobeError, match=r"did you mean '(image|scale)'\?"):
            normprobe.record(Named().eval(), [batch])


def test_what_the_forward_takes_is_given() -> None:
    given = BatchArguments(Named())
    assert given.of((X, 2.0)) == ((X, 2.0), {})
    assert given.of(X) == ((X,), {})
    assert given.of({"image": X}) == ((), {"image": X})
    assert given.left_out == ""

    class Anything(nn.Module):
        def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
            return args[0]

    anything = BatchArguments(Anything())
    assert anything.of((X, Y)) == ((X, Y), {})
    assert anything.of({"labels": Y}) == ((), {"labels": Y})
    with pytest.raises(normprobe.NormprobeError, match="got str"):
        given.of("text")


class Optional(nn.Module):
    """A forward of one required argument and two that have a default."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.given: dict[str, Any] = {}

    def forward(self, x: Tensor, mask: Any = None, return_features: bool = False) -> Any:
        self.given = {"mask": mask, "return_features": return_features}
        return self.linear(x)


class Flag(Optional):
    def forward(self, x: Tensor, return_features: bool = False) -> Any:  # type: ignore[override]
        return super().forward(x, None, return_features)


class Context(Optional):
    def forward(self, x: Tensor, context: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, context)


class Targets(Optional):
    def forward(self, x: Tensor, targets: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, targets)


class Lengths(Optional):
    def forward(self, x: Tensor, lengths: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, lengths)


TEXTS = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
REAL = torch.tensor([5, 3, 4, 5]).unsqueeze(1) > torch.arange(5)
CLASSES = torch.tensor([3, 0, 2, 1])


@pytest.mark.parametrize("of_masks", [REAL, REAL.long(), REAL.float()], ids=["bool", "int", "float"])
def test_a_mask_that_has_a_default_takes_a_mask_and_no_classes(of_masks: Tensor) -> None:
    arguments = BatchArguments(Optional())
    assert arguments.of((TEXTS, of_masks)) == ((TEXTS, of_masks), {})
    assert arguments.left_out == ""
    arguments = BatchArguments(Optional())
    assert arguments.of((TEXTS, CLASSES)) == ((TEXTS,), {})
    assert arguments.left_out == (
        "of each batch of 2 items the last item is left out, as labels are: "
        "if it is meant for mask, give mappings {'x': ..., 'mask': ...}"
    )


@pytest.mark.parametrize(
    ("item", "taken"),
    [
        (torch.randn(4, 5).to(torch.complex64), 1),
        (REAL.float().to_sparse(), 1),
        (torch.zeros(0, 5), 2),
        (torch.ones(4, 5, device="meta"), 2),
        ((~REAL).float() * -1e4, 2),
    ],
    ids=["complex", "sparse", "empty", "meta", "additive"],
)
def test_odd_tensors_are_masks_only_where_they_may_be(item: Tensor, taken: int) -> None:
    assert len(BatchArguments(Optional()).of((TEXTS, item))[0]) == taken


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_no_mask() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    assert len(BatchArguments(Optional()).of((TEXTS, nested))[0]) == 1


def test_the_mask_of_a_loader_is_applied_as_before() -> None:
    recording = normprobe.record(Optional(), DataLoader(TensorDataset(TEXTS, REAL), batch_size=2))
    assert recording.meta["padding"] == 3
    assert recording.meta["warnings"] == []
    with pytest.warns(normprobe.NormprobeWarning, match="the last item is left out.*if it is meant for mask"):
        recording = normprobe.record(Optional(), DataLoader(TensorDataset(TEXTS, CLASSES), batch_size=2))
    assert recording.meta["padding"] == 0
    assert len(recording.meta["warnings"]) == 1


def test_labels_switch_no_flag_on() -> None:
    model = Flag()
    recording = normprobe.record(model, LOADER)
    assert model.given["return_features"] is False
    assert recording.meta["warnings"] == [SAID]
    assert BatchArguments(model).of((X, True)) == ((X, True), {})


def test_an_argument_named_so_takes_labels() -> None:
    model = Targets()
    assert normprobe.record(model, LOADER).meta["warnings"] == []
    assert torch.equal(model.given["mask"], Y[32:])


def test_lengths_are_taken_by_what_is_called_so() -> None:
    lengths = REAL.sum(1)
    assert BatchArguments(Lengths()).of((TEXTS, lengths)) == ((TEXTS, lengths), {})
    assert BatchArguments(Lengths()).of((TEXTS, CLASSES)) == ((TEXTS,), {})


def test_a_graph_of_each_row_is_taken() -> None:
    class Graphs(Optional):
        def forward(self, x: Tensor, batch: Any = None) -> Any:  # type: ignore[override]
            return super().forward(x, batch)

    assert BatchArguments(Graphs()).of((X, Y)) == ((X, Y), {})


def test_an_optional_argument_of_any_name_takes_no_single_axis_by_itself() -> None:
    model = Context()
    with pytest.warns(normprobe.NormprobeWarning, match=r"give mappings \{'x': ..., 'context': ...\}"):
        normprobe.record(model, [(X, Y)])
    assert model.given["mask"] is None
    assert normprobe.record(model, [(X, X)]).meta["warnings"] == []
    assert model.given["mask"] is X
    assert normprobe.record(model, [{"x": X, "context": Y}]).meta["warnings"] == []
    assert model.given["mask"] is Y


class AllOptional(nn.Module):
    """A forward as transformers has it: every argument has a default."""

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        return input_ids


IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
MASK = (IDS != 0).long()


@pytest.mark.parametrize(
    ("batch", "taken"),
    [
        ((IDS,), 1),
        ((IDS, MASK), 2),
        ((IDS, MASK, torch.zeros_like(IDS)), 3),
        ((IDS, MASK, torch.zeros_like(IDS), CLASSES[:2]), 4),
        ((IDS, CLASSES[:2]), 1),
        ((IDS, IDS), 1),  # a label for each token is no mask
        ((IDS, MASK, CLASSES[:2]), 2),
        ([IDS, MASK, {"boxes": X}], 2),
    ],
    ids=str,
)
def test_where_all_have_a_default_tensors_go_in_order_until_one_cannot(batch: Any, taken: int) -> None:
    arguments = BatchArguments(AllOptional())
    args, kwargs = arguments.of(batch)
    assert (len(args), kwargs) == (taken, {})
    assert all(own is given for own, given in zip(args, batch, strict=False))
    assert bool(arguments.left_out) is (taken < len(batch))


def test_ids_and_masks_of_a_data_set_are_recorded_as_by_name() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    by_place = normprobe.record(model, DataLoader(TensorDataset(IDS, MASK), batch_size=2))
    by_name = normprobe.record(model, [{"input_ids": IDS, "attention_mask": MASK, "idx": CLASSES[:2]}])
    assert by_place.meta["padding"] == 2
    assert same(by_place, by_name)


class ByKeyword(Optional):
    def forward(self, *, image: Tensor, mask: Any = None) -> Any:  # type: ignore[override]
        return super().forward(image, mask)


@pytest.mark.parametrize("batch", [X, (X,), (X, Y), {"image": X, "label": Y, "path": ["a"] * 48}], ids=str)
def test_arguments_by_keyword_alone_take_items_too(batch: Any) -> None:
    args, kwargs = BatchArguments(ByKeyword()).of(batch)
    assert args == ()
    assert kwargs == {"image": X}


class Fields(NamedTuple):
    label: Any
    image: Any


class Places(NamedTuple):
    first: Any
    second: Any


def test_a_named_tuple_goes_by_its_names_where_they_are_those_of_arguments() -> None:
    assert BatchArguments(Named()).of(Fields(Y, X)) == ((), {"image": X})
    assert BatchArguments(Optional()).of(Places(X, Y)) == ((X,), {})


def test_a_packed_sequence_is_one_argument() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(TEXTS, torch.tensor([5, 4, 3, 3]), batch_first=True)
    assert BatchArguments(nn.GRU(6, 4)).of(packed) == ((packed,), {})
    model = nn.GRU(6, 4, batch_first=True)
    model.register_module("head", nn.Linear(4, 2))
    with pytest.raises(normprobe.NoSamplesError):  # it runs, though its head is not called
        normprobe.record(model, packed).findings()


def test_images_with_boxes_are_the_images() -> None:
    images, boxes = torch.randn(2, 3, 4, 4), [{"boxes": X}, {"boxes": X}]

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Any:
            return self.norm(x)

    recording = normprobe.record(Classifier(), [(images, boxes), (images, {"boxes": X})])
    assert recording.meta["examples"] == 4


class HandsOn(nn.Module):
    """A wrapper as adapters write it, two deep."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.add_module("model", model)
        # Anything, as those of adapters take: the signature says nothing.
        self.base_model.forward = self._call_model  # type: ignore[assignment]

    def _call_model(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model.model(*args, **kwargs)  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


def test_of_a_wrapper_the_model_within_says_what_is_taken() -> None:
    recording = normprobe.record(HandsOn(net()), LOADER)
    assert recording.meta["warnings"] == [SAID]
    assert same(recording, normprobe.record(net(), list(X.split(16))))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x) + self.linear(y)  # type: ignore[no-any-return]


def test_what_cannot_be_called_says_what_the_forward_takes() -> None:
    doors: list[Any] = [normprobe.record, lambda m, b: normprobe.compare_live(m, m, b)]
    for door in doors:
        with pytest.raises(
            normprobe.NormprobeError,
            match=r"Two.forward\(x, y\) cannot be called with a batch of float32 of shape \(48, 6\): missing "
            r"a required argument: 'y'; hand over what it takes: .*\(x for x, \*_ in loader\)",
        ):
            door(Two(), [X])


def test_an_error_within_the_forward_stays_what_it_is() -> None:
    class Broken(Optional):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            raise TypeError("of its own")

    with pytest.raises(TypeError, match=r"^of its own$"):
        normprobe.record(Broken(), [X])


def test_a_hook_may_give_what_a_batch_lacks() -> None:
    model = Two()
    model.register_forward_pre_hook(lambda module, args: (*args, X))
    assert normprobe.record(model, [X]).meta["examples"] == 48


@pytest.mark.parametrize("batches", [[], (x for x in ()), iter([])], ids=["list", "generator", "iterator"])
def test_no_batches_are_an_error_at_every_door(batches: Any) -> None:
    message = "there are no batches, so nothing is run; a generator gives its batches once"
    with pytest.raises(normprobe.NoSamplesError, match=message):
        normprobe.record(net(), batches)
    with pytest.raises(normprobe.NoSamplesError, match=message):
        normprobe.compare_live(net(), net(), batches)
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(normprobe.NoSamplesError, match=message):
        normprobe.batchnorm.recalibrate(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batches", [3, "texts", None])
def test_what_is_no_set_of_batches_is_said(batches: Any) -> None:
    with pytest.raises(
        normprobe.NormprobeError, match=r"batches are an iterable of tensors, .*; got (int|str|None)"
    ):
        normprobe.record(net(), batches)


def two_inputs() -> nn.Module:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a + b)

    return Sum().eval()


@pytest.mark.parametrize(
    ("model", "given", "is_batch"),
    [
        (Optional(), (TEXTS, REAL), True),
        (Optional(), [TEXTS, REAL.long()], True),
        (Optional(), (TEXTS, CLASSES), True),
        (Optional(), (TEXTS, TEXTS), False),
        (AllOptional(), (IDS, MASK), True),
        (AllOptional(), (IDS, IDS), False),
        (AllOptional(), (MASK, MASK), False),
        (AllOptional(), [IDS, IDS[:1], IDS], False),
        (two_inputs(), (X, X), True),
        (two_inputs(), [(X, X)], False),
        (net(), [X, X], False),
        (net(), [X, Y], True),
        (net(), (X,), False),
    ],
)
def test_tensors_are_one_batch_where_they_can_be_nothing_else(
    model: nn.Module, given: Any, is_batch: bool
) -> None:
    assert BatchArguments(model).is_batch(given) is is_batch


def test_one_batch_need_not_be_wrapped() -> None:
    model = two_inputs()
    assert same(normprobe.record(model, (X, X)), normprobe.record(model, [(X, X)]))
    assert normprobe.compare_live(two_inputs(), two_inputs(), (X, X)).meta["examples"] == (48, 48)
    of_loader = normprobe.record(net(), next(iter(LOADER)))
    assert of_loader.meta["examples"] == len(next(iter(LOADER))[0])
