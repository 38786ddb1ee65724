"""Texts from text files and tables: a text per line, row or conversation."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from normprobe.errors import DataError
from normprobe.loading.inputs.columns import Kind, choose, collect, kind_of, texts
from normprobe.loading.inputs.sources import Texts

_MAX_FIELD = 2**31 - 1  # characters; the largest that the csv module takes on every platform
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LOOKED_AT = 20
"""Rows from which it is decided what separates the fields of a table."""

_SAID = re.compile(r"sep=(.)\r?\n?")
"""The first line by which a spreadsheet says what separates fields."""


def read_txt(path: Path, limit: int | None) -> Texts:
    """Read a text per line; empty lines are skipped.

    Raises:
        DataError: not UTF-8, or no text in it.
    """
    # Generators from here on: with a limit the rest of a large file is never read.
    rows = ((number, line.strip()) for number, line in _lines(path))
    return texts(path, rows, limit, skipped_silently=True)


def read_jsonl(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a JSON object (or string) per line: a text, a conversation for the chat template, or token ids.

    Raises:
        DataError: not UTF-8, a line that is not JSON, or no text in it.
    """
    rows = ((number, _json(path, number, line)) for number, line in _lines(path) if line.strip())
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds no rows")
    all_rows = _chain(first, rows)
    if isinstance(first[1], str) and column is None:
        return texts(path, all_rows, limit)
    columns = {**_fields(path, *first), **({column: kind_of(_cell(first[1], column))} if column else {})}
    choice = choose(path, columns, column)
    cells = (
        (number, {name: _field(path, number, row, name) for name in choice.names}) for number, row in all_rows
    )
    return collect(path, choice, cells, limit)


def read_csv(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a column of a CSV (or TSV) file with a header, whatever of the usual signs separates its fields.

    Raises:
        DataError: not UTF-8, malformed, or without such a column.
    """
    # By default a field of more than 131,072 characters is an error.
    csv.field_size_limit(_MAX_FIELD)
    separator, skipped = _separator(path)
    lines = (line for _, line in islice(_lines(path), skipped, None))
    # strict, or a quote that is never closed would take the rest of the file for one field.
    reader = csv.reader(lines, delimiter=separator, strict=True)
    rows = _csv_rows(path, reader, skipped)
    header = next(rows, (0, []))[1]
    kinds: dict[str, Kind] = dict.fromkeys(header, "text")
    choice = choose(path, kinds, column)
    places = [header.index(name) for name in choice.names]
    cells = (
        (number, {name: row[at] for name, at in zip(choice.names, places, strict=True)})
        for number, row in rows
    )
    found = collect(path, choice, cells, limit)
    if separator == _usual(path) or skipped:
        return found
    line = separator.join(header).replace("\t", "\\t")
    said = f"fields separated by {_SEPARATORS.get(separator, repr(separator))}: {line[:60]}"
    return replace(found, warnings=(*found.warnings, said))


def _usual(path: Path) -> str:
    """What separates fields by the ending of the file."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def read_parquet(path: Path, column: str | None, limit: int | None) -> Texts:
    """Read a column of a Parquet file: texts, conversations for the chat template, or token ids.

    Raises:
        DataError: damaged, or without such a column of text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        choice = choose(path, {field.name: arrow_kind(field.type) for field in file.schema_arrow}, column)
        # In parts: with a limit the rest is never decoded.
        parts = file.iter_batches(columns=list(choice.names), batch_size=1024)
        values = list(islice((row for part in parts for row in part.to_pylist()), limit))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as cause:
        raise DataError(f"{path} is not a readable Parquet file: {' '.join(str(cause).split())}") from cause
    return collect(path, choice, enumerate(values, start=1), limit)


def arrow_kind(kind: Any) -> Kind:
    """What a column of an Arrow type holds."""
    import pyarrow.types as kinds

    inner = kind.value_type if kinds.is_dictionary(kind) else kind
    if kinds.is_string(inner) or kinds.is_large_string(inner):
        return "text"
    if kinds.is_list(inner) or kinds.is_large_list(inner) or kinds.is_fixed_size_list(inner):
        if kinds.is_struct(inner.value_type):
            return "chat"
        return "tokens" if kinds.is_integer(inner.value_type) else "other"
    return "other"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, whatever ends them."""
    try:
        # Without the byte order mark that Windows writes; with each line's own end, which csv asks for.
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as cause:
        byte, number = _undecodable(path)
        raise DataError(
            f"{path} is not UTF-8: byte 0x{byte:02x} in line {number}; "
            "save it as UTF-8 (iconv -t UTF-8 converts it)"
        ) from cause


def _undecodable(path: Path) -> tuple[int, int]:
    """The first byte that is no UTF-8, and the number of its line: text is decoded many lines at once."""
    number = 0
    with path.open("rb") as file:
        for lines in file:
            for line in lines.splitlines():
                number += 1
                try:
                    line.decode()
                except UnicodeDecodeError as cause:
                    return line[cause.start], number
    return 0, number


def _separator(path: Path) -> tuple[str, int]:
    """What separates the fields of a table, and how many lines come before its header.

    Raises:
        DataError: the header is one field by the sign that its ending names, and several by another, but not
            all rows are.
    """
    usual = _usual(path)
    # More lines than rows, as a field in quotes may hold line breaks.
    lines = [line for _, line in islice(_lines(path), 20 * _LOOKED_AT)]
    said = _SAID.fullmatch(lines[0]) if lines else None
    if said is not None:
        return said[1], 1
    widths = {sign: _widths(lines, sign) for sign in (usual, *(s for s in _SEPARATORS if s != usual))}
    # First the sign of the ending: texts may be full of the others.
    if widths[usual] and widths[usual][0] > 1 and len(set(widths[usual])) == 1:
        return usual, 0
    even = [sign for sign, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1]
    if even:
        # The one that finds most fields: one that finds few may belong to the texts.
        return max(even, key=lambda sign: widths[sign][0]), 0
    other = next((s for s, found in widths.items() if found and found[0] > 1), usual)
    if other != usual and widths[usual] and widths[usual][0] == 1:
        raise DataError(
            f"{path}, line 1 reads as one column {lines[0].strip()!r}; are its fields separated by "
            f"{_SEPARATORS[other]}? Not every row has as many: save it with {_SEPARATORS[usual]}"
        )
    return usual, 0


def _widths(lines: Sequence[str], separator: str) -> list[int]:
    """How many fields each of the first rows has; up to the first that is malformed."""
    found: list[int] = []
    try:
        for row in csv.reader(lines, delimiter=separator, strict=True):
            if row:
                found.append(len(row))
            if len(found) == _LOOKED_AT:
                break
    except csv.Error:  # cut off in quotes, or no such table
        pass
    return found


def _json(path: Path, number: int, line: str) -> Any:
    """What a line holds.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(line)
    # Lists nested too deep for Python's parser are no ValueError.
    except (ValueError, RecursionError) as cause:
        raise DataError(
            f"{path}, line {number} is not JSON ({cause}); a JSON object a line was needed"
        ) from cause


def _csv_rows(path: Path, reader: Any, before: int) -> Iterator[tuple[int, list[str]]]:
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
                line = reader.line_num + before
                raise DataError(f"{path}, line {line} has {len(row)} fields; the header has {width}")
            yield reader.line_num + before, row
    except csv.Error as cause:
        raise DataError(f"{path}, line {reader.line_num + before} is not CSV: {cause}") from cause


def _fields(path: Path, number: int, row: Any) -> dict[str, Kind]:
    """The fields of a row, and what each holds.

    Raises:
        DataError: the row is no object.
    """
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} holds a {type(row).__name__}; a JSON object was needed")
    return {name: kind_of(value) for name, value in row.items()}


def _cell(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else None


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


def _chain(first: tuple[int, Any], rest: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    yield first
    yield from rest
