"""Texts and conversations through a model's tokenizer: cut at the model's maximum, padded, with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.errors import DataError
from normprobe.loading.inputs.chat_templates import name_row, through_template
from normprobe.loading.inputs.decoder_inputs import decoder_tokens, needs_decoder_tokens
from normprobe.loading.inputs.modality import forward_arguments, vocabulary_size
from normprobe.loading.inputs.processors import has_tokenizer, load_tokenizer
from normprobe.loading.inputs.sources import Batch, Chunks, Inputs, Labels, Texts, count_of
from normprobe.loading.inputs.to_model import keyword_tensors
from normprobe.loading.models import LoadedModel

_NO_MAXIMUM = 10**9  # tokenizers without a maximum say 1e30

Encoded = dict[str, list[int]]


def prepare(source: Texts, model: LoadedModel, size: int) -> Inputs:
    """Make padded batches of ``size`` texts in the order of the file.

    A decoder gets the text shifted by its start token. A model that takes no attention mask gets texts one
    by one, so that no padding is ever measured.

    Raises:
        DataError: the tokenizer is missing or refuses a text, or does not belong to the model.
    """
    tokenizer = load_tokenizer(model) if not source.tokens or has_tokenizer(model) else _Padding(model)
    encoded, warnings = encode(source, tokenizer, model)
    masked = "attention_mask" in forward_arguments(model.module)
    if not masked and size > 1:
        warnings = (*warnings, "the model takes no attention mask: texts are run one by one")
    batches = Chunks(
        len(encoded),
        size if masked else 1,
        lambda rows: pad(encoded[rows.start : rows.stop], tokenizer, model),
    )
    what = "conversation" if source.chats else "text"
    description = f"{count_of(len(encoded), what)} from {source.where}"
    labels = None if isinstance(tokenizer, _Padding) else labels_of(tokenizer)
    return Inputs(batches, len(batches), description, "token", "text", warnings, labels)


class _Padding:
    """What padding needs to know of a tokenizer, for token ids beside a model that has none."""

    # Either side would do: the mask says where it is.
    padding_side = "right"
    eos_token_id = None

    def __init__(self, model: LoadedModel) -> None:
        self.pad_token_id = getattr(model.config, "pad_token_id", None)


def encode(source: Texts, tokenizer: Any, model: LoadedModel) -> tuple[list[Encoded], tuple[str, ...]]:
    """The tokens of each text, and warnings: texts truncated or without any token.

    Raises:
        DataError: the tokenizer refuses a text, or makes a token that the model does not know.
    """
    most = max_tokens(model, tokenizer)
    if source.tokens:
        return _given(source, model, most)
    texts = through_template(source, tokenizer, model) if source.chats else source.texts
    special = not source.chats  # a chat template has already put in the special tokens
    encoded: list[Encoded] = []
    long = empty = 0
    for line, text in zip(source.lines, texts, strict=True):
        with name_row(source, line):
            tokens = _tokens(tokenizer, text, None, special)
            # Twice for a long text only: whether one is truncated is to be said.
            if most is not None and len(tokens["input_ids"]) > most:
                long += 1
                tokens = _tokens(tokenizer, text, most, special)
        if tokens["input_ids"]:
            encoded.append(tokens)
        else:
            empty += 1
    if not encoded:
        raise DataError(f"{source.where}: the tokenizer of {model.name} makes no token of any text")
    _check_known(encoded, model)
    warnings = list(source.warnings)
    if long:
        warnings.append(f"{count_of(long, 'text')} truncated to {most:,} tokens, the model's maximum")
    if empty:
        warnings.append(f"{count_of(empty, 'text')} without a token left out")
    return encoded, tuple(warnings)


def _given(source: Texts, model: LoadedModel, most: int | None) -> tuple[list[Encoded], tuple[str, ...]]:
    """Token ids as the file has them, cut to ``most``, and warnings.

    Raises:
        DataError: the model does not know one of them.
    """
    rows = vocabulary_size(model.module)
    for line, ids in zip(source.lines, source.tokens, strict=True):
        low, high = min(ids), max(ids)
        if low < 0 or (rows is not None and high >= rows):
            known = "none below 0" if rows is None else f"0 to {rows - 1}"
            raise DataError(
                f"{source.where}, row {line} holds token ids from {low} to {high}; "
                f"{type(model.module).__name__} knows {known}"
            )
    encoded = [
        {"input_ids": list(ids[:most]), "attention_mask": [1] * len(ids[:most])} for ids in source.tokens
    ]
    long = sum(
        len(ids) > len(tokens["input_ids"]) for ids, tokens in zip(source.tokens, encoded, strict=True)
    )
    said = (f"{count_of(long, 'text')} truncated to {most:,} tokens, the model's maximum",) if long else ()
    return encoded, (*source.warnings, *said)


def _tokens(tokenizer: Any, text: str, most: int | None, special: bool) -> Encoded:
    """Tokenize one text, cut to ``most`` tokens."""
    encoding = tokenizer(
        text,
        truncation=most is not None,
        max_length=most,
        add_special_tokens=special,
        padding=False,
        return_attention_mask=True,
    )
    return {name: list(values) for name, values in encoding.items()}


def max_tokens(model: LoadedModel, tokenizer: Any) -> int | None:
    """How many tokens the model can read, or None where nothing says so."""
    maxima = [
        getattr(tokenizer, "model_max_length", None),
        getattr(model.config, "max_position_embeddings", None),
        getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None),
    ]
    maxima += [
        # RoBERTa and models derived from it number positions from padding_idx + 1.
        part.num_embeddings - part.padding_idx - 1
        for name, part in model.module.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(part, nn.Embedding)
        and part.padding_idx is not None
    ]
    # The smallest of what is known: each of them is a bound.
    known = [int(value) for value in maxima if isinstance(value, int | float) and 0 < value < _NO_MAXIMUM]
    return min(known, default=None)


def _check_known(encoded: Sequence[Encoded], model: LoadedModel) -> None:
    """Check that the model knows every token: torch says no more than index out of range.

    Raises:
        DataError: it does not.
    """
    rows = vocabulary_size(model.module)
    highest = max(max(tokens["input_ids"]) for tokens in encoded)
    if rows is not None and highest >= rows:
        raise DataError(
            f"the tokenizer of {model.name} makes token {highest}, and the model knows only 0 to {rows - 1}: "
            "it belongs to another model"
        )


def pad(encoded: Sequence[Encoded], tokenizer: Any, model: LoadedModel) -> Batch:
    """One batch of keyword arguments, padded on the tokenizer's side to its longest text.

    Shapes are ``(texts, tokens)``. Without a padding token the end token stands in: the mask hides it.
    """
    fill = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    left = tokenizer.padding_side == "left"
    # What has a number for each token is padded with it; the rest, such as lengths, is of no position.
    names = [
        name
        for name in encoded[0]
        if all(len(tokens[name]) == len(tokens["input_ids"]) for tokens in encoded)
    ]
    batch = {
        name: _stack([tokens[name] for tokens in encoded], fill if name == "input_ids" else 0, left)
        for name in names
    }
    if needs_decoder_tokens(model):
        start = [decoder_tokens(tokens["input_ids"], model) for tokens in encoded]
        batch["decoder_input_ids"] = _stack(start, fill, left)
        batch["decoder_attention_mask"] = _stack([[1] * len(ids) for ids in start], 0, left)
    return keyword_tensors(batch, model)


def _stack(rows: Sequence[Sequence[int]], fill: int, left: bool) -> Tensor:
    """Rows of different lengths as one tensor ``(rows, longest)``."""
    longest = max(len(row) for row in rows)
    out = torch.full((len(rows), longest), fill)
    for index, row in enumerate(rows):
        start = longest - len(row) if left else 0
        out[index, start : start + len(row)] = torch.tensor(row)
    return out


def labels_of(tokenizer: Any) -> Labels:
    """A callable that gives the text of every token of a forward, padding included."""
    cache: dict[int, str] = {}

    def text(token: int) -> str:
        if token not in cache:
            cache[token] = _token_text(tokenizer, token)
        return cache[token]

    def labels(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[list[str]]:
        ids = kwargs.get("input_ids", args[0] if args else None)
        return [[text(int(token)) for token in row] for row in ids] if torch.is_tensor(ids) else []

    return labels


def _token_text(tokenizer: Any, token: int) -> str:
    """A token as text; one that is part of a character only, or blank, by its own name."""
    decoded = str(tokenizer.decode([token]))
    named = str(tokenizer.convert_ids_to_tokens(token))
    return named if not decoded.strip() or "\N{REPLACEMENT CHARACTER}" in decoded else decoded
