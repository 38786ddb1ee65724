"""Files as people have them: every form is read, and every damage is named with its place."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from normprobe.errors import DataError
from normprobe.loading.inputs import check_data
from normprobe.loading.inputs.readers import FORMATS, Format, read_source
from normprobe.loading.inputs.sources import Arrays, Chunks, Images, Texts

ROWS = ["the cat", "a dog, and a cat", 'they said "no"']


def read(path: Path, column: str | None = None, limit: int | None = None) -> Any:
    return read_source(path, column, limit)


def refusal(path: Path, column: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, column)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestText:
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_a_text_per_line(self, tmp_path: Path, end: str) -> None:
        file = write(tmp_path / "x.txt", "\ufeff" + end.join([ROWS[0], "", "  ", *ROWS[1:]]))
        assert read(file) == Texts("x.txt", tuple(ROWS), (), (1, 4, 5))
        assert read(file, limit=2).texts == tuple(ROWS[:2])

    def test_not_utf8(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.txt", "caf\u00e9\n".encode("latin-1") * 3)
        assert "is not UTF-8: byte 0xe9" in refusal(file)
        assert "iconv -t UTF-8" in refusal(file)
        assert "is not UTF-8: byte 0xff" in refusal(write(tmp_path / "x.txt", "cat".encode("utf-16")))

    def test_empty(self, tmp_path: Path) -> None:
        assert refusal(write(tmp_path / "x.txt", "")).endswith("x.txt is empty")
        assert refusal(write(tmp_path / "x.txt", "\n \n")).endswith("x.txt holds no text")


class TestJsonl:
    def test_fields(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        write(file, "".join(json.dumps({"id": 1, "text": row, "other": "x"}) + "\n" for row in ROWS))
        assert read(file).texts == tuple(ROWS)
        assert read(file, "other").texts == ("x", "x", "x")
        write(file, "".join(json.dumps({"id": 1, "body": row}) + "\n\n" for row in ROWS))
        assert read(file).texts == tuple(ROWS)
        assert read(file).lines == (1, 3, 5)
        write(file, "".join(json.dumps(row) + "\n" for row in ROWS))
        assert read(file).texts == tuple(ROWS)

    def test_rows_without_text_are_warned_of(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.jsonl", '{"text": "cat"}\n{"text": null}\n{"text": " "}\n')
        assert read(file) == Texts("x.jsonl", ("cat",), (), (1,), ("2 rows without text left out",))

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('{"text": "cat"}\n{"text": \n', "line 2 is not JSON"),
            ('{"text": "cat"}\n[1]\n', "line 2 has no 'text' (it has a list)"),
            (
                '{"text": "cat"}\n{"txt": "dog"}\n',
                "line 2 has no 'text' (it has txt)",
            ),
            ('{"text": 7}\n', "which column holds the text? it has none with text"),
            ('{"text": "a"}\n{"text": 7}\n', "row 2 holds a int where text was needed"),
            ('{"a": "x", "b": "y"}\n', "which column holds the text? it has a, b; say it with --column"),
            ("7\n", "line 1 holds a int; a JSON object was needed"),
            ("\n\n", "holds no rows"),
            ("[" * 50_000 + "\n", "line 1 is not JSON"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, content: str, words: str) -> None:
        assert words in refusal(write(tmp_path / "x.jsonl", content))

    def test_an_unknown_column(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.jsonl", '{"text": "cat"}\n')
        assert "line 1 has no 'body' (it has text)" in refusal(file, "body")


class TestCsv:
    @pytest.mark.parametrize(("name", "mark"), [("x.csv", ","), ("x.tsv", "\t")])
    def test_a_column(self, tmp_path: Path, name: str, mark: str) -> None:
        import csv
        import io

        made = io.StringIO()
        writer = csv.writer(made, delimiter=mark)
        writer.writerows([["id", "body"], *([str(i), row] for i, row in enumerate(ROWS))])
        file = write(tmp_path / name, made.getvalue())
        assert read(file, "body").texts == tuple(ROWS)
        assert "which column holds the text? it has id, body" in refusal(file)
        assert "has no column 'text'; it has id, body" in refusal(file, "text")

    def test_a_column_named_text_or_the_only_one_needs_no_name(self, tmp_path: Path) -> None:
        assert read(write(tmp_path / "x.csv", "id,text\n1,cat\n")).texts == ("cat",)
        assert read(write(tmp_path / "x.csv", 'line\n"a\nb"\n')).texts == ("a\nb",)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("id,text\n1,cat,7\n", "line 2 has 3 fields; the header has 2"),
            ("id,text\n1,cat\n2\n", "line 3 has 1 fields; the header has 2"),
            ('id,text\n1,"cat\n', "is not CSV: unexpected end of data"),
            ("id,text\n", "holds no text"),
            ("\n\n", "which column holds the text? it has none with text"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, content: str, words: str) -> None:
        assert words in refusal(write(tmp_path / "x.csv", content))

    def test_a_field_of_any_length(self, tmp_path: Path) -> None:
        assert len(read(write(tmp_path / "x.csv", f"text\n{'a' * 300_000}\n")).texts[0]) == 300_000


class TestParquet:
    def test_a_column(self, tmp_path: Path) -> None:
        file = tmp_path / "x.parquet"
        pq.write_table(pa.table({"id": [1, 2, 3], "body": ROWS}), file)
        assert read(file).texts == tuple(ROWS)
        assert read(file, limit=2).texts == tuple(ROWS[:2])
        assert "has no column 'text'; it has id, body" in refusal(file, "text")
        assert "row 1 holds a int where text was needed" in refusal(file, "id")
        pq.write_table(
            pa.table({"text": pa.array([*ROWS, None]).dictionary_encode(), "b": [*ROWS, ""]}), file
        )
        assert read(file).texts == tuple(ROWS)
        assert read(file).warnings == ("1 row without text left out",)

    def test_conversations(self, tmp_path: Path) -> None:
        messages = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "bye"}]]
        pq.write_table(pa.table({"messages": messages}), tmp_path / "x.parquet")
        assert list(read(tmp_path / "x.parquet").chats) == messages

    def test_damaged(self, tmp_path: Path) -> None:
        file = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": ROWS}), file)
        write(file, file.read_bytes()[:100])
        assert "is not a readable Parquet file" in refusal(file)
        pq.write_table(pa.table({"id": [1]}), file)
        assert "which column holds the text? it has none with text" in refusal(file)


class TestArrays:
    def test_lengths_and_limits(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros((5, 2)))
        assert read(tmp_path / "x.npy").rows == 5
        assert read(tmp_path / "x.npy", limit=3).rows == 3
        np.savez(tmp_path / "x.npz", a=np.zeros((5, 2)), b=np.zeros((4, 2)))
        assert "of different lengths: a has 5, b has 4" in refusal(tmp_path / "x.npz")

    @pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.safetensors"])
    @pytest.mark.parametrize("keep", [1, 7, 60, 130])
    def test_cut_off(self, tmp_path: Path, name: str, keep: int) -> None:
        file = tmp_path / name
        if name == "x.npy":
            np.save(file, np.zeros((4, 4)))
        elif name == "x.npz":
            np.savez(file, a=np.zeros((4, 4)))
        else:
            save_file({"a": torch.zeros(4, 4)}, file)
        write(file, file.read_bytes()[:keep])
        assert "is cut off or damaged" in refusal(file) or "holds pickled objects" in refusal(file)

    def test_pickles_are_never_read(self, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        trap = Trap(mark)
        np.save(tmp_path / "x.npy", np.array([trap, 1], dtype=object), allow_pickle=True)
        np.savez(tmp_path / "x.npz", a=np.array([trap], dtype=object))
        write(tmp_path / "y.npy", pickle.dumps(trap))
        for name in ("x.npy", "x.npz"):
            assert "holds pickled objects, and loading those runs" in refusal(tmp_path / name)
        assert "is cut off or damaged" in refusal(tmp_path / "y.npy")
        torch.save(trap, tmp_path / "x.pt")
        assert "is a pickle file, and loading one runs whatever code it holds" in refusal(tmp_path / "x.pt")
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.array(["a", "b"]), "holds <U1; numbers were needed"),
            (np.zeros((0, 4)), "is empty: its shape is (0, 4)"),
            (np.array(3.0), "is a single number; an array with the batch as its first axis was needed"),
        ],
    )
    def test_what_cannot_be_batches(self, tmp_path: Path, array: Any, words: str) -> None:
        np.save(tmp_path / "x.npy", array)
        assert words in refusal(tmp_path / "x.npy")
        np.savez(tmp_path / "x.npz", only=array)
        assert f"only of {tmp_path / 'x.npz'} {words}" in refusal(tmp_path / "x.npz")

    def test_no_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz")
        assert "holds no arrays" in refusal(tmp_path / "x.npz")


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def test_what_is_not_there_or_not_read(tmp_path: Path) -> None:
    assert "does not exist; give .txt, .jsonl, .csv, .parquet" in refusal(tmp_path / "none.txt")
    assert "has the ending '.docx', which is not read" in refusal(write(tmp_path / "x.docx", "x"))
    assert "has the ending '', which is not read" in refusal(write(tmp_path / "x", "x"))
    assert "--column a goes with" in refusal(write(tmp_path / "x.txt", "x"), "a")
    assert "--column a goes with" in refusal(tmp_path, "a")
    with pytest.raises(DataError, match=r"none.txt does not exist"):
        check_data(str(tmp_path / "none.txt"))
    check_data(None)
    check_data("module.py:callable")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    file = write(tmp_path / "x.txt", "cat")
    file.chmod(0)
    assert "cannot be read: Permission denied" in refusal(file)


@given(count=st.integers(0, 50), size=st.integers(1, 20))
def test_chunks_hold_every_index_once_in_order(count: int, size: int) -> None:
    chunks = Chunks(count, size, list)
    assert [index for chunk in chunks for index in chunk] == list(range(count))
    assert len(list(chunks)) == len(chunks)
    assert all(len(chunk) == size for chunk in list(chunks)[:-1])


def intact(folder: Path) -> list[Path]:
    """One intact file of each form."""
    write(folder / "x.txt", "\n".join(ROWS))
    write(folder / "x.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    write(folder / "c.jsonl", json.dumps(chat) + "\n")
    write(folder / "x.csv", "id,text\n1,cat\n2,dog\n")
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ROWS}), folder / "x.parquet")
    np.save(folder / "x.npy", np.arange(12.0).reshape(3, 4))
    np.savez(folder / "x.npz", a=np.arange(12.0).reshape(3, 4), b=np.arange(3))
    np.savez_compressed(folder / "z.npz", a=np.arange(12.0).reshape(3, 4))
    save_file({"a": torch.arange(12.0).reshape(3, 4)}, folder / "x.safetensors")
    return sorted(folder.iterdir())


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Cut, flip, insert, repeat or overwrite some bytes."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        start, length = dice.randrange(len(data) + 1), dice.randint(1, 16)
        match dice.randrange(5):
            case 0:
                del data[start : start + dice.choice([1, 8, len(data)])]
            case 1:
                data[start:start] = dice.randbytes(length)
            case 2:
                data[start : start + length] = dice.randbytes(length)
            case 3:
                data[start : start + 1] = bytes([dice.choice(b'0123456789"{}[],\n\x00\xff')])
            case _:
                data += data[start : start + 64]
    return bytes(data)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """6,000 damaged files: numbers or texts, or one line that says why not; never another exception."""
    dice = random.Random(0)
    folder = tmp_path / "intact"
    folder.mkdir()
    files = [(file.name, file.read_bytes()) for file in intact(folder)]
    refused = 0
    for trial in range(6000):
        name, content = files[trial % len(files)]
        file = write(tmp_path / name, damaged(content, dice))
        try:
            found = read(file)
        except DataError:
            refused += 1
            continue
        assert isinstance(found, Texts | Images | Arrays)
        if isinstance(found, Arrays):
            assert all(array.shape[0] >= found.rows > 0 for array in found.arrays.values())
        else:
            assert found.texts or found.chats
    assert 1000 < refused < 5900


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.suffixes[0])
def test_every_format_is_named_where_a_file_is_not_read(tmp_path: Path, form: Format) -> None:
    """One table: what is read, and what people are told to give."""
    message = refusal(write(tmp_path / "x.xyz", "x"))
    assert "which is not read; give .txt, .jsonl" in message
    assert (form.name or form.suffixes[0]) in message
    empty = [refusal(write(tmp_path / f"x{suffix}", "")) for suffix in form.suffixes]
    assert all(message.endswith("is empty") for message in empty)
    with_columns = refusal(write(tmp_path / "x.txt", "x"), "a").partition("goes with ")[2].partition(";")[0]
    assert form.has_columns == (form.suffixes[0] in with_columns)
