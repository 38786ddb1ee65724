"""Tables as data sets have them: separators, conversations, prompts, token ids; what is there is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normprobe.errors import DataError
from normprobe.loading.inputs.readers import read_source
from normprobe.loading.inputs.sources import Texts

TEXTS = ("the old; river", "a warm, stone", "light")


def read(path: Path, column: str | None = None, limit: int | None = None) -> Any:
    return read_source(path, column, limit)


def refusal(path: Path, column: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, column)
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(sign: str, end: str = "\r\n") -> str:
    return "".join(sign.join((str(at), f'"{text}"', "x")) + end for at, text in enumerate(TEXTS))


class TestSeparators:
    @pytest.mark.parametrize("column", [None, "text"])
    @pytest.mark.parametrize(
        ("name", "sign", "said"),
        [
            ("x.csv", ",", ()),
            ("x.csv", ";", ("fields separated by semicolons",)),
            ("x.csv", "\t", ("fields separated by tabs",)),
            ("x.csv", "|", ("fields separated by vertical bars",)),
            ("x.tsv", "\t", ()),
            ("x.tsv", ",", ("fields separated by commas",)),
            ("x.tsv", ";", ("fields separated by semicolons",)),
        ],
    )
    def test_whichever_it_is_the_column_is_read(
        self, tmp_path: Path, name: str, sign: str, said: tuple[str, ...], column: str | None
    ) -> None:
        for mark in ("", "\ufeff"):
            file = write(tmp_path / name, mark + sign.join(("id", "text", "n")) + "\r\n" + table(sign))
            assert read(file, column) == Texts(name, TEXTS, (), (2, 3, 4), said)

    def test_what_a_spreadsheet_says_of_it(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.csv", "sep=;\r\nid;text;n\r\n" + table(";"))
        assert read(file).texts == TEXTS
        assert read(file).lines == (3, 4, 5)

    def test_commas_in_a_table_of_semicolons_separate_nothing(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.csv", "id;text, raw\n1;a, b, c\n2;d\n")
        assert read(file, "text, raw").texts == ("a, b, c", "d")

    def test_raw_lines_are_never_taken_for_texts(self, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / "x.csv", "id;text;n\n1;a;2\n2;b;c;3\n"))
        assert "line 1 reads as one column 'id;text;n'; are its fields separated by semicolons?" in message

    def test_one_column_of_texts_is_one_column(self, tmp_path: Path) -> None:
        file = write(tmp_path / "x.csv", 'text\na; b\n"c, d"\nplain\n')
        assert read(file).texts == ("a; b", "c, d", "plain")


@pytest.mark.parametrize("line", [1, 2, 5, 4000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.jsonl"])
def test_the_line_of_a_byte_that_is_no_utf8_is_named(tmp_path: Path, name: str, end: str, line: int) -> None:
    rows = ['"text"', *('"a river"' for _ in range(5000))]
    rows[line - 1] = '"l\u00ecght"'
    file = write(tmp_path / name, end.join(rows).encode("cp1252"))
    assert f"is not UTF-8: byte 0xec in line {line}; save it as UTF-8" in refusal(file)


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
LAYOUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "messages": ({"id": 1, "messages": CHAT}, CHAT),
    "from and value": (
        {"id": "a", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        CHAT,
    ),
    "one conversation": ({"source": "s", "conversation": CHAT}, CHAT),
    "from and value as messages": (
        {"messages": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "yes"}]},
        CHAT,
    ),
    "a system's word": (
        {"conversations": [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hi"}]},
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    ),
    "prompt and completion as messages": ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT),
    "prompt and chosen as messages": ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[:1]}, CHAT),
}


def stored(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


FORMS = pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])


@FORMS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_of_any_layout(tmp_path: Path, name: str, layout: str) -> None:
    row, expected = LAYOUTS[layout]
    found = read(stored(tmp_path / name, [row, row]))
    assert list(found.chats) == [expected, expected]
    assert found.lines == (1, 2)


@FORMS
@pytest.mark.parametrize("answer", ["completion", "response", "chosen"])
def test_a_prompt_and_its_answer_are_one_text(tmp_path: Path, name: str, answer: str) -> None:
    rows = [{"prompt": "The sky is", answer: " blue."}, {"prompt": "Two and two", answer: " is four."}]
    file = stored(tmp_path / name, rows)
    assert read(file).texts == ("The sky is blue.", "Two and two is four.")
    assert read(file, "prompt").texts == ("The sky is", "Two and two")


@FORMS
class TestTokens:
    @pytest.mark.parametrize("column", ["input_ids", "token_ids", "tokens"])
    def test_a_column_of_token_ids(self, tmp_path: Path, name: str, column: str) -> None:
        file = stored(tmp_path / name, [{column: [7, 8, 9]}, {column: [10, 11]}, {column: [12]}])
        assert read(file) == Texts(name, (), (), (1, 2, 3), (), ((7, 8, 9), (10, 11), (12,)))
        assert read(file, limit=2).tokens == ((7, 8, 9), (10, 11))

    def test_what_the_mask_beside_it_leaves(self, tmp_path: Path, name: str) -> None:
        rows = [
            {"input_ids": [7, 8, 0], "attention_mask": [1, 1, 0], "labels": [7, 8, -100]},
            {"input_ids": [9, 8, 7], "attention_mask": [1, 1, 1], "labels": [9, 8, 7]},
        ]
        assert read(stored(tmp_path / name, rows)).tokens == ((7, 8), (9, 8, 7))

    def test_texts_come_first_unless_it_is_asked_for(self, tmp_path: Path, name: str) -> None:
        file = stored(tmp_path / name, [{"text": "a", "input_ids": [1, 2]}, {"text": "b", "input_ids": [3]}])
        assert read(file).texts == ("a", "b")
        assert read(file, "input_ids").tokens == ((1, 2), (3,))

    def test_columns_without_text_are_named(self, tmp_path: Path, name: str) -> None:
        file = stored(tmp_path / name, [{"embedding": [0.1, 0.2], "score": 1.0}])
        assert "it has none with text, only embedding, score" in refusal(file)


def test_a_row_that_is_no_list_of_token_ids_is_named(tmp_path: Path) -> None:
    file = stored(tmp_path / "x.jsonl", [{"input_ids": [1, 2]}, {"input_ids": [1, "a"]}])
    assert "row 2: input_ids must be a list of token ids" in refusal(file)
    file = stored(tmp_path / "x.jsonl", [{"input_ids": [1, 2], "attention_mask": [1]}])
    assert "row 1 has 2 token ids and a mask of 1" in refusal(file)
