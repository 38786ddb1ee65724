"""Which columns of a table hold the data, and their rows as a source: texts, conversations, token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Texts, count_of

Kind = Literal["text", "chat", "tokens", "other"]
Row = Mapping[str, Any]

_CHATS = ("messages", "conversations", "conversation")
_TOKENS = ("input_ids", "token_ids", "tokens")
_MASK = "attention_mask"
_PROMPT, _ANSWERS = "prompt", ("completion", "response", "chosen")
_MOST_NAMED = 12

_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("function_response", "observation", "tool"), "tool"),
}
"""The roles of a chat template, by what other layouts call who speaks."""


class Choice(NamedTuple):
    """The columns that are read: one, or a prompt and its answer, or token ids and their mask."""

    names: tuple[str, ...]
    kind: Kind


def kind_of(value: Any) -> Kind:
    """What a cell of a JSON object holds."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return "chat"
    # Not isinstance: to Python True is an int.
    if isinstance(value, list) and value and all(type(part) is int for part in value):
        return "tokens"
    return "other"


def choose(path: Path, columns: Mapping[str, Kind], asked: str | None) -> Choice:
    """The column asked for, or those that plainly hold the data: conversations, text, then token ids.

    Args:
        path: the file, for messages.
        columns: the name of every column, and what it holds.
        asked: the column that the user named.

    Raises:
        DataError: there is no such column, none that holds data, or several that may.
    """
    if asked is not None:
        if asked not in columns:
            raise DataError(f"{path} has no column {asked!r}; it has {_named(columns) or 'none'}")
        return _of_kind(asked, columns)
    # First: beside a conversation a text is often the same written out.
    for name in _CHATS:
        # `messages` by its name alone: of another form it is an error that names the row.
        if columns.get(name) == "chat" or (name == _CHATS[0] and name in columns):
            return Choice((name,), "chat")
    texts = [name for name, kind in columns.items() if kind == "text"]
    if "text" in texts:
        return Choice(("text",), "text")
    for answer in _ANSWERS:
        kinds = {columns.get(_PROMPT), columns.get(answer)}
        if kinds in ({"text"}, {"chat"}):
            return Choice((_PROMPT, answer), columns[answer])
    # Of several nothing is guessed: the wrong column would be measured without a word.
    if len(texts) == 1:
        return Choice((texts[0],), "text")
    tokens = next((name for name in _TOKENS if columns.get(name) == "tokens"), None)
    if tokens is not None and not texts:
        return _of_kind(tokens, columns)
    have = f"it has {_named(texts)}" if texts else "it has none with text"
    if not texts and columns:
        have += f", only {_named(columns)}"
    raise DataError(f"{path}: which column holds the text? {have}; say it with --column")


def _of_kind(name: str, columns: Mapping[str, Kind]) -> Choice:
    kind: Kind = "chat" if name == _CHATS[0] else columns[name]
    # Beside token ids only: a column of this name may be anything else's.
    masked = kind == "tokens" and columns.get(_MASK) == "tokens"
    return Choice((name, _MASK) if masked else (name,), kind)


def _named(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:_MOST_NAMED])


def collect(path: Path, choice: Choice, rows: Iterable[tuple[int, Row]], limit: int | None) -> Texts:
    """Read up to ``limit`` rows of the chosen columns.

    Args:
        path: the file, for messages.
        choice: the columns.
        rows: the number of each row, from 1, and its cells.
        limit: None reads all.

    Raises:
        DataError: a cell is not of the kind, or there is no row with data.
    """
    if choice.kind == "tokens":
        return _tokens(path, choice, rows, limit)
    if choice.kind == "chat":
        chats = (
            (number, [message for name in choice.names for message in _chat(path, number, row[name])])
            for number, row in rows
        )
        return _chats(path, chats, limit)
    return texts(path, ((number, _joined(path, number, row, choice)) for number, row in rows), limit)


def _joined(path: Path, number: int, row: Row, choice: Choice) -> Any:
    """The text of a row; of a prompt and its answer both, one behind the other."""
    cells = [row[name] for name in choice.names]
    if len(cells) == 1:
        return cells[0]
    for cell in cells:
        if cell is not None and not isinstance(cell, str):
            raise DataError(_no_text(path, number, cell))
    return "".join(cell or "" for cell in cells)


def _no_text(path: Path, number: int, value: Any) -> str:
    return (
        f"{path}, row {number} holds a {type(value).__name__} where text was needed; --column names another"
    )


def texts(
    path: Path, rows: Iterable[tuple[int, Any]], limit: int | None, *, skipped_silently: bool = False
) -> Texts:
    """Collect up to ``limit`` texts; rows without any are left out and counted.

    Raises:
        DataError: a value is no text, or there is none.
    """
    numbers: list[int] = []
    found: list[str] = []
    empty = 0
    for number, value in rows:
        if limit is not None and len(found) == limit:
            break
        if value is not None and not isinstance(value, str):
            raise DataError(_no_text(path, number, value))
        if not value or not value.strip():
            empty += 1
            continue
        numbers.append(number)
        found.append(value)
    if not found:
        raise DataError(f"{path} holds no text")
    warn = empty and not skipped_silently
    warnings = (f"{count_of(empty, 'row')} without text left out",) if warn else ()
    return Texts(path.name, tuple(found), (), tuple(numbers), warnings)


def _chat(path: Path, number: int, messages: Any) -> list[dict[str, Any]]:
    """A conversation as chat templates read it, whichever of the usual layouts it is in.

    Raises:
        DataError: it is no list of messages.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise DataError(f"{path}, row {number}: messages must be a list of objects with role and content")
    return [_message(message) for message in messages]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with role and content; ``from`` and ``value`` are what ShareGPT's layout calls them."""
    if "role" in message or "from" not in message:
        return message
    speaker = str(message["from"])
    others = {name: value for name, value in message.items() if name not in {"from", "value"}}
    return {"role": _ROLES.get(speaker.lower(), speaker), "content": message.get("value"), **others}


def _chats(path: Path, rows: Iterable[tuple[int, Any]], limit: int | None) -> Texts:
    numbers, chats = [], []
    for number, messages in islice(rows, limit):
        numbers.append(number)
        chats.append(messages)
    if not chats:
        raise DataError(f"{path} holds no rows")
    return Texts(path.name, (), tuple(chats), tuple(numbers))


def _tokens(path: Path, choice: Choice, rows: Iterable[tuple[int, Row]], limit: int | None) -> Texts:
    """Token ids as they are; a mask beside them says which are padding, and those are left out.

    Raises:
        DataError: a row holds something else, or a mask of another length, or there are no tokens.
    """
    numbers: list[int] = []
    found: list[tuple[int, ...]] = []
    empty = 0
    for number, row in rows:
        if limit is not None and len(found) == limit:
            break
        ids, mask = row[choice.names[0]], row[_MASK] if len(choice.names) > 1 else None
        if ids is not None and (not isinstance(ids, list) or any(type(token) is not int for token in ids)):
            raise DataError(f"{path}, row {number}: {choice.names[0]} must be a list of token ids")
        if ids and mask is not None and len(mask) != len(ids):
            raise DataError(f"{path}, row {number} has {len(ids)} token ids and a mask of {len(mask)}")
        real = tuple(ids or ()) if mask is None else _real(ids or [], mask)
        if not real:
            empty += 1
            continue
        numbers.append(number)
        found.append(real)
    if not found:
        raise DataError(f"{path} holds no token ids")
    warnings = (f"{count_of(empty, 'row')} without token ids left out",) if empty else ()
    return Texts(path.name, (), (), tuple(numbers), warnings, tuple(found))


def _real(ids: Sequence[int], mask: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for token, real in zip(ids, mask, strict=True) if real)
