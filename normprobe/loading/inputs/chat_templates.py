"""Conversations written out as text with a model's chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from normprobe.errors import DataError
from normprobe.loading.inputs.modality import Modality, modality_of
from normprobe.loading.inputs.processors import load_processor
from normprobe.loading.inputs.sources import Texts
from normprobe.loading.models import LoadedModel
from normprobe.loading.models.import_path import describe

Messages = Sequence[dict[str, Any]]


def through_template(source: Texts, tokenizer: Any, model: LoadedModel) -> list[str]:
    """Each conversation as its model's chat template writes it.

    Raises:
        DataError: there is no template, it refuses a conversation, or a conversation holds an image.
    """
    with_images = modality_of(model) is Modality.IMAGE_IN_TEXT
    template = getattr(tokenizer, "chat_template", None)
    # Processors of such models hold the template themselves.
    if not template and with_images:
        template = getattr(load_processor(model), "chat_template", None)
    if not template:
        raise DataError(
            f"{source.where} holds chat messages, and the model's tokenizer has no chat template; "
            "give texts, or a model tuned for chat"
        )
    written = []
    for line, messages in zip(source.lines, source.chats, strict=True):
        if with_images:
            _refuse_images(source, line, messages)
        with name_row(source, line):
            text = str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
            # Some templates of such models read lists of parts only, and write nothing of a plain text.
            if with_images and _loses(text, messages):
                parts = in_parts(messages)
                text = str(tokenizer.apply_chat_template(parts, chat_template=template, tokenize=False))
            written.append(text)
    return written


def _loses(text: str, messages: Messages) -> bool:
    """Whether a template left out a plain content, as those do that look for parts of a type."""
    contents = [message.get("content") for message in messages]
    # Stripped, as templates may be free with the blanks round a message.
    return any(isinstance(content, str) and content.strip() not in text for content in contents)


def in_parts(messages: Messages) -> list[dict[str, Any]]:
    """Messages whose plain contents are lists of one text part.

    >>> in_parts([{"role": "user", "content": "hi"}])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'hi'}]}]
    """
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _refuse_images(source: Texts, line: int, messages: Messages) -> None:
    """Check that a conversation is text only: messages name images by address, and nothing is fetched."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    kinds = [str(part.get("type", "text")) for part in parts if isinstance(part, dict)]
    other = next((kind for kind in kinds if kind != "text"), None)
    if other is not None:
        raise DataError(
            f"{source.where}, row {line} holds a message with a part of type {other!r}; messages of text "
            "are read, and images come as a folder"
        )


@contextmanager
def name_row(source: Texts, line: int) -> Iterator[None]:
    """Name the row of the data on which the tokenizer or its chat template fails.

    Raises:
        DataError: whatever went wrong inside, in one line.
    """
    try:
        yield
    except Exception as cause:
        what = "chat template" if source.chats else "tokenizer"
        raise DataError(f"{source.where}, row {line}: the {what} refuses it: {describe(cause)}") from cause
