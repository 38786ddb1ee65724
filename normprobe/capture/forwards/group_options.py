"""The option `groups` of a probe: what a user may give, and of what groups a forward's samples are by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from normprobe.capture.forwards.probe_options import shown, users_own
from normprobe.errors import NormprobeError
from normprobe.layers.module_attributes import attribute
from normprobe.samples.batch import Batch
from normprobe.samples.groups import MOST_GROUPS, Codes, GroupNames, SampleGroups
from normprobe.tables.records import valid_name
from normprobe.vocabulary import GROUP_RULES, NO_GROUP

GroupsOf = Callable[[tuple[Any, ...], dict[str, Any]], Any]
GroupsOption = Literal["special", "first", "modality", "generated"] | GroupsOf | None

_SPECIAL = ("bos", "eos", "pad", "cls", "sep", "mask", "decoder_start")
_MODALITY = re.compile(r"(image|video|audio|speech)_token_(?:id|index)")
_IDS = {"own": "input_ids", "decoder": "decoder_input_ids"}
_CACHES = ("cache", "past_key_values", "cache_params", "past", "layer_past", "mems", "state")


@dataclass(frozen=True, eq=False)
class ForwardGroups:
    """The groups of the samples of one forward, by the sequence that a layer works on.

    Attributes:
        names: the names of all groups so far.
        examples: of each example, whatever the sequence; None where positions are told apart.
        tables: of each position, by sequence; ids as the model has them, (batch, positions) or time first.
        ids: whether the tables are in the order of the model's ids.
        first: the codes of the first position and of the others.
    """

    names: GroupNames
    examples: Codes | None = None
    tables: Mapping[str, Codes] | None = None
    ids: bool = False
    first: tuple[int, int] | None = None

    def of(self, reads: str, batch: Batch, *, two_sided: bool) -> SampleGroups:
        """The groups of a sequence: own, decoder, cross, or that of a further argument."""
        # What cross-attention reads in an encoder-decoder is the encoder's sequence.
        name = "own" if reads == "cross" and two_sided else reads
        table = (self.tables or {}).get(name)
        if table is not None and self.ids and batch.time_first:
            table = table.T
        return SampleGroups(self.names, self.examples, table, self.first)

    @property
    def key(self) -> tuple[Any, ...]:
        """What is equal for forwards of one size whose samples are of equal groups."""
        # By value: each forward has arrays of its own, and equal ones must find the same plans.
        held = [self.examples, *(self.tables or {}).values()]
        return (self.first, *(None if codes is None else (codes.shape, codes.tobytes()) for codes in held))


class GroupRule(Protocol):
    """Says of what group the samples of a forward are."""

    def of(self, call: GroupedCall) -> ForwardGroups:
        """The groups of a forward that begins with this call."""


@dataclass(frozen=True, eq=False)
class GroupedCall:
    """A call of the model.

    Attributes:
        arguments: by name.
        args: as they are.
        kwargs: likewise, by name.
        batch: what they say of its batch.
    """

    arguments: Mapping[str, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: Batch


class GroupsByFunction:
    """Groups by a function of the user's."""

    def __init__(self, names: GroupNames, call: GroupsOf) -> None:
        self._names, self._call = names, call

    def of(self, call: GroupedCall) -> ForwardGroups:
        """The groups that the function gives."""
        with users_own():
            labels = _array(self._call(call.args, call.kwargs))
            self._check(labels.shape, call.batch)
            distinct, inverse = np.unique(_sortable(labels.reshape(-1)), return_inverse=True)
            try:
                codes = np.array([self._names.code_of(valid_name(str(name))) for name in distinct], np.int64)
            except OverflowError:
                raise NormprobeError(
                    f"groups gave more than {MOST_GROUPS:,} different labels; each has sums of its own at "
                    "every site: give fewer, as of classes or ranges"
                ) from None
        found = codes[inverse].reshape(labels.shape)
        if labels.ndim == 1:
            return ForwardGroups(self._names, examples=found)
        return ForwardGroups(self._names, tables={"own": found})

    @staticmethod
    def _check(shape: tuple[int, ...], batch: Batch) -> None:
        lead = () if batch.lead is None or batch.lead.is_nested else tuple(batch.lead.shape[:2])
        # Time may come first, so that the first axis need not be the batch.
        if len(shape) in (1, 2) and shape[0] in {batch.size, *lead}:
            return
        raise NormprobeError(
            f"groups gave labels of shape {shape} for a batch of {batch.size}; (batch,) or (batch, "
            "positions) is needed"
        )


class GroupsByToken:
    """Groups by token ids."""

    def __init__(self, names: GroupNames, group_of: Mapping[int, str], other: str) -> None:
        self._tokens: dict[int, list[int]] = {}
        for token, group in group_of.items():
            self._tokens.setdefault(names.code_of(group), []).append(token)
        self._names, self._other = names, names.code_of(other)

    def of(self, call: GroupedCall) -> ForwardGroups:
        """The groups of a forward's ids; of none where it is given none."""
        given = {reads: call.arguments.get(name) for reads, name in _IDS.items()}
        # Models outside transformers give their ids any name; the lead of embeddings would be no ids.
        if given["own"] is None and given["decoder"] is None and "inputs_embeds" not in call.arguments:
            given["own"] = call.batch.lead
        tables = {reads: self._codes(ids) for reads, ids in given.items() if _are_ids(ids)}
        return ForwardGroups(self._names, tables=tables, ids=True)

    def _codes(self, ids: Any) -> Codes:
        # An accelerator is waited for, once a forward: samples are chosen on the host.
        numbers = ids.detach().cpu().numpy()
        codes = np.full(numbers.shape, self._other, np.int64)
        for code, tokens in self._tokens.items():
            codes[np.isin(numbers, tokens)] = code
        return codes


class GroupsByFirst:
    """The first real position of each example, and the rest."""

    def __init__(self, names: GroupNames) -> None:
        self._groups = ForwardGroups(names, first=(names.code_of("first"), names.code_of("rest")))

    def of(self, call: GroupedCall) -> ForwardGroups:
        """The same for every forward."""
        return self._groups


class GroupsByGeneration:
    """What was given to `generate`, and what it made: single positions behind those in a cache."""

    def __init__(self, names: GroupNames) -> None:
        self._names, self._codes = names, (names.code_of("prompt"), names.code_of("generated"))

    def of(self, call: GroupedCall) -> ForwardGroups:
        """All of a forward's examples are of one group."""
        ids = call.arguments.get("decoder_input_ids")
        steps = tuple(ids.shape[1:2]) if isinstance(ids, Tensor) else (call.batch.time,)
        # A prompt of a single token has the same size, but nothing in its cache yet.
        single = steps == (1,) and any(map(_holds_past, _caches(call.arguments)))
        return ForwardGroups(self._names, examples=np.full(call.batch.size, self._codes[single], np.int64))


class Grouping(NamedTuple):
    """How the samples of a probe are told apart: by which rule, and how the recording names it."""

    rule: GroupRule
    shown: Any


def read_groups(groups: Any, model: nn.Module) -> Grouping | None:
    """What a user gave as groups.

    Args:
        groups: one of `GROUP_RULES`, a tokenizer, whose special tokens are meant, a function, or None.
        model: the model, whose configuration says which tokens are special.

    Raises:
        NormprobeError: it is none of these, or the model does not say which tokens are meant.
    """
    names = GroupNames(NO_GROUP)
    if groups is None:
        return None
    # Before functions are looked at, for a tokenizer can be called, too.
    if ids := attribute(groups, "all_special_ids"):
        special = dict.fromkeys(map(int, ids), "special")
        return Grouping(GroupsByToken(names, special, "other"), "special")
    if isinstance(groups, str) and groups in _RULES:
        return Grouping(_RULES[groups](names, model), groups)
    # A class can be called as well, but makes an object and no labels.
    if callable(groups) and not isinstance(groups, type):
        return Grouping(GroupsByFunction(names, groups), shown(groups))
    raise NormprobeError(
        f"groups must be one of {', '.join(map(repr, GROUP_RULES))}, a tokenizer, or a function "
        f"(args, kwargs) -> labels of shape (batch,) or (batch, positions); got {groups!r}"
    )


_RULES: dict[str, Callable[[GroupNames, nn.Module], GroupRule]] = {
    "special": lambda names, model: GroupsByToken(
        names, dict.fromkeys(_special_ids(model), "special"), "other"
    ),
    "first": lambda names, model: GroupsByFirst(names),
    "modality": lambda names, model: GroupsByToken(names, _modality_ids(model), "text"),
    "generated": lambda names, model: GroupsByGeneration(names),
}


def _special_ids(model: nn.Module) -> list[int]:
    """The ids of special tokens: of the model's tokenizer if it holds one, else as its configuration says."""
    if ids := attribute(attribute(model, "tokenizer"), "all_special_ids"):
        return [int(token) for token in ids]
    found: dict[str, list[int]] = {}
    for config in _configs(model):
        for name in _SPECIAL:
            token = attribute(config, f"{name}_token_id")
            given = token if isinstance(token, (list, tuple)) else [token]
            found.setdefault(name, []).extend(one for one in given if isinstance(one, int) and one >= 0)
    named = {name: ids for name, ids in found.items() if ids}
    # Of BERT's it names the padding alone, and [CLS] would count among the others.
    if not named.keys() - {"pad"}:
        raise NormprobeError(
            "groups='special' needs to know which tokens are special, and the configuration of "
            f"{type(model).__name__} names {'only its padding' if named else 'none'}; give groups=tokenizer, "
            "or a function (args, kwargs) -> labels"
        )
    return sorted({token for ids in named.values() for token in ids})


def _modality_ids(model: nn.Module) -> dict[int, str]:
    """What the ids that stand for images, sound and video stand for, as the configuration says."""
    found: dict[int, str] = {}
    for config in _configs(model):
        for name in dir(config):
            says, token = _MODALITY.fullmatch(name), attribute(config, name)
            if says is not None and isinstance(token, int) and token >= 0:
                found[token] = says[1]
    if not found:
        raise NormprobeError(
            "groups='modality' needs an image_token_id, audio_token_id or the like in the configuration of "
            f"{type(model).__name__}, which has none; give a function (args, kwargs) -> labels"
        )
    return found


def _configs(model: nn.Module) -> Iterator[Any]:
    """The configurations of a transformers model: its own, that of its text, and that of `generate`."""
    # torch.compile's wrapper holds the user's model in `_orig_mod`, a private name.
    config = attribute(attribute(model, "_orig_mod", model), "config")
    for one in (config, attribute(config, "text_config"), attribute(model, "generation_config")):
        if one is not None:
            yield one


def _are_ids(ids: Any) -> bool:
    """Whether an argument is a table of whole numbers."""
    table = isinstance(ids, Tensor) and not ids.is_nested and ids.dim() == 2 and not ids.is_meta
    return bool(table) and not ids.is_floating_point() and not ids.is_complex()


def _caches(arguments: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments that may hold what earlier forwards computed."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and (name in _CACHES or hasattr(value, "get_seq_length")):
            yield value


def _holds_past(cache: Any) -> bool:
    """Whether a cache holds positions of earlier forwards."""
    if isinstance(cache, (list, tuple)):
        return len(cache) > 0
    # One of state space layers alone has no length, and one of attention alone no state.
    for says in ("get_seq_length", "has_previous_state"):
        try:
            return bool(getattr(cache, says)())
        except (AttributeError, TypeError, ValueError):
            continue
    return False


def _array(labels: Any) -> Any:
    """Labels as an array, texts and None as they are."""
    if isinstance(labels, Tensor):
        return labels.detach().cpu().numpy()
    if isinstance(labels, np.ndarray):
        return labels
    try:
        rows = [list(row) if isinstance(row, (list, tuple)) else row for row in labels]
        nested = [isinstance(row, list) for row in rows]
        if not rows or not all(nested):
            # np.array would make one dtype of mixed labels: True and 1 would become one group.
            held = np.empty(len(rows), object)
            held[:] = [_scalar(row) for row in rows]
            return held
        return np.array([[_scalar(one) for one in row] for row in rows], object)
    except (TypeError, ValueError) as error:
        raise NormprobeError(
            f"groups gave {type(labels).__name__}; a tensor, an array or a list of labels is needed, of "
            "shape (batch,) or (batch, positions)"
        ) from error


def _scalar(label: Any) -> Any:
    return label.item() if isinstance(label, (Tensor, np.generic)) else label


def _sortable(labels: Any) -> Any:
    """Labels as numbers or as texts; what is of no group is `NO_GROUP`."""
    whole = labels.dtype.kind in "biuU"
    return labels if whole else np.array([_text(label) for label in labels.tolist()], str)


def _text(label: Any) -> str:
    if label is None:
        return NO_GROUP
    if isinstance(label, (bool, int, str)):
        return str(label)
    raise NormprobeError(
        f"groups gave the label {label!r} of type {type(label).__name__}; str, int, bool or None are needed"
    )
