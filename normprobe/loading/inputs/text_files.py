"""Texts from text files and tables: a text per line, row or conversation."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Texts, count_of

_MAX_FIELD = 2**31 - 1  # characters; the largest that the csv module takes on every platform


def read_txt(path: Path, limit: int | None) -> Texts:
    """Read a text per line; empty lines are skipped.

    Raises:
        DataError: not UTF-8, or no text in it.
    """
    # Generators from here on: with a limit the rest of a large file is never read.
    rows = ((number, line.strip()) for number, line in _lines(path))
    return _texts(path, rows, limit, skipped_silently=True)


def read_jsonl(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a JSON object (or string) per line: a text, or ``messages`` for the chat template.

    Raises:
        DataError: not UTF-8, a line that is not JSON, or no text in it.
    """
    rows = ((number, _json(path, number, line)) for number, line in _lines(path) if line.strip())
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds no rows")
    all_rows = _chain(first, rows)
    if isinstance(first[1], str) and column is None:
        return _texts(path, all_rows, limit)
    name = column or _likely_column(path, _fields(path, *first))
    values = ((number, _field(path, number, row, name)) for number, row in all_rows)
    return _chats(path, values, limit) if name == "messages" else _texts(path, values, limit)


def read_csv(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a column of a CSV (or TSV) file with a header.

    Raises:
        DataError: not UTF-8, malformed, or without such a column.
    """
    csv.field_size_limit(_MAX_FIELD)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    rows = _csv_rows(path, reader)
    header = next(rows, (0, []))[1]
    name = _checked_column(path, header, column) if column is not None else _likely_column(path, header)
    index = header.index(name)
    return _texts(path, ((number, row[index]) for number, row in rows), limit)


def read_parquet(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a column of a Parquet file: texts, or ``messages`` for the chat template.

    Raises:
        DataError: damaged, or without such a column of text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        textual = [field.name for field in schema if _is_text(field.type) or field.name == "messages"]
        name = (
            _checked_column(path, schema.names, column)
            if column is not None
            else _likely_column(path, textual)
        )
        parts = file.iter_batches(columns=[name], batch_size=1024)
        values = list(islice((value for part in parts for value in part.column(0).to_pylist()), limit))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as cause:
        raise DataError(f"{path} is not a readable Parquet file: {' '.join(str(cause).split())}") from cause
    rows = enumerate(values, start=1)
    return _chats(path, rows, limit) if name == "messages" else _texts(path, rows, limit)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as kinds

    inner = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_string(inner) or kinds.is_large_string(inner))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, whatever ends them."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except UnicodeDecodeError as cause:
        raise DataError(
            f"{path} is not UTF-8: byte 0x{cause.object[cause.start]:02x} after line {number}; "
            "save it as UTF-8 (iconv -t UTF-8 converts it)"
        ) from cause


def _json(path: Path, number: int, line: str) -> Any:
    """What a line holds.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise DataError(
            f"{path}, line {number} is not JSON ({cause}); a JSON object a line was needed"
        ) from cause


def _csv_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The numbered rows of a CSV reader, each as wide as its header.

    Raises:
        DataError: one is wider or narrower, or malformed.
    """
    width = None
    try:
        for row in reader:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise DataError(
                    f"{path}, line {reader.line_num} has {len(row)} fields; the header has {width}"
                )
            yield reader.line_num, row
    except csv.Error as cause:
        raise DataError(f"{path}, line {reader.line_num} is not CSV: {cause}") from cause


def _fields(path: Path, number: int, row: Any) -> list[str]:
    """The names of a row's fields that may hold the text.

    Raises:
        DataError: the row is no object.
    """
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} holds a {type(row).__name__}; a JSON object was needed")
    return [name for name, value in row.items() if isinstance(value, str) or name == "messages"]


def _field(path: Path, number: int, row: Any, name: str) -> Any:
    """The field of this name of a row.

    Raises:
        DataError: it has none.
    """
    if not isinstance(row, dict) or name not in row:
        has = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise DataError(
            f"{path}, line {number} has no {name!r} (it has {has or 'nothing'}); --column names another"
        )
    return row[name]


def _likely_column(path: Path, names: Sequence[str]) -> str:
    """The column that plainly holds the data.

    Raises:
        DataError: there are several that may.
    """
    for usual in ("messages", "text"):
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    have = f"it has {', '.join(names[:12])}" if names else "it has none with text"
    raise DataError(f"{path}: which column holds the text? {have}; say it with --column")


def _checked_column(path: Path, names: Sequence[str], column: str) -> str:
    """The column asked for.

    Raises:
        DataError: there is none of this name.
    """
    if column not in names:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(names[:12]) or 'none'}")
    return column


def _chain(first: tuple[int, Any], rest: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    yield first
    yield from rest


def _texts(
    path: Path, rows: Iterable[tuple[int, Any]], limit: int | None, *, skipped_silently: bool = False
) -> Texts:
    """Collect up to ``limit`` texts; rows without any are left out and counted."""
    numbers: list[int] = []
    texts: list[str] = []
    empty = 0
    for number, value in rows:
        if limit is not None and len(texts) == limit:
            break
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise DataError(
                f"{path}, row {number} holds a {kind} where text was needed; --column names another"
            )
        if not value or not value.strip():
            empty += 1
            continue
        numbers.append(number)
        texts.append(value)
    if not texts:
        raise DataError(f"{path} holds no text")
    warn = empty and not skipped_silently
    warnings = (f"{count_of(empty, 'row')} without text left out",) if warn else ()
    return Texts(path.name, tuple(texts), (), tuple(numbers), warnings)


def _chats(path: Path, rows: Iterable[tuple[int, Any]], limit: int | None) -> Texts:
    """Collect up to ``limit`` conversations.

    Raises:
        DataError: a row is no list of messages, or there is none.
    """
    numbers, chats = [], []
    for number, messages in islice(rows, limit):
        well_made = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
        if not well_made or not messages:
            raise DataError(f"{path}, row {number}: messages must be a list of objects with role and content")
        numbers.append(number)
        chats.append(messages)
    if not chats:
        raise DataError(f"{path} holds no rows")
    return Texts(path.name, (), tuple(chats), tuple(numbers))
