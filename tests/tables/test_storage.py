"""Recordings on disk: equal after loading, whole or not there, and nothing in a file is believed."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import normprobe
from normprobe.errors import NoSamplesError, RecordingError
from normprobe.recording import Recording
from normprobe.tables import storage
from tests.helpers.damage import BLIND, FORGED, entries, packed
from tests.helpers.recordings import BASES, FRAMES, assert_same, batches, made, net, recorded

LABELS = [[f"{example}.{position}" for position in range(7)] for example in range(3)]


def labelled(part: str = "a") -> Recording:
    return normprobe.record(net(), batches(), part=part, labels=lambda args, kwargs: LABELS)


@cache
def small() -> Recording:
    data = np.random.default_rng(0).normal(size=(8, 3))
    data[2, 1] = np.nan
    return Recording(made("a", data))


@cache
def saved(labels: bool = True) -> bytes:
    """The bytes of a small recording."""
    return small().save(Path(os.environ["PYTEST_FOLDER"]) / "small", labels=labels).read_bytes()


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PYTEST_FOLDER"] = str(tmp_path_factory.mktemp("saved"))


def refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.normprobe"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=message) as caught:
        normprobe.load(path)
    assert str(caught.value).count("\n") == 0
    assert "; " in str(caught.value), "the message says what to do"


def table(columns: dict[str, Any]) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    return bytes(buffer.getvalue())


def changed(name: str, change: Any) -> bytes:
    """The small recording with one of its Parquet tables changed."""
    held = entries(saved())
    arrow = pq.read_table(pa.BufferReader(held[f"{name}.parquet"]))
    columns = dict(zip(arrow.column_names, arrow.columns, strict=True))
    return packed(held | {f"{name}.parquet": table(change(columns))})


def told(**facts: Any) -> bytes:
    """The small recording with other facts in its JSON."""
    held = entries(saved())
    about = json.loads(held["recording.json"])
    about["meta"] |= facts
    return packed(held | {"recording.json": json.dumps(about).encode()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_loaded_equals_what_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    model, data = net().to(dtype), batches(dtype=dtype)
    data[0][0, 0, 0] = float("nan")
    recording = normprobe.record(model, data, part="a", labels=lambda args, kwargs: LABELS)
    loaded = normprobe.load(recording.save(tmp_path / "run.normprobe", labels=True))
    assert_same(loaded.tables, recording.tables)
    assert loaded.tables.row_values.dtype == recording.tables.row_values.dtype
    for layer, site in zip(recording.layers["layer"], recording.layers["site"], strict=True):
        np.testing.assert_array_equal(loaded.values(layer, site), recording.values(layer, site))


def test_a_recording_of_nothing_is_saved_and_loaded(tmp_path: Path) -> None:
    recording = normprobe.Probe(net()).recording
    assert_same(normprobe.load(recording.save(tmp_path / "x")).tables, recording.tables)


def test_the_file_is_a_zip_of_parquet_and_json_the_same_every_time(tmp_path: Path) -> None:
    data = recorded().save(tmp_path / "x").read_bytes()
    assert recorded().save(tmp_path / "y").read_bytes() == data
    held = entries(data)
    assert set(held) == {"recording.json", *(f"{name}.parquet" for name in (*BASES, "row_values"))}
    about = json.loads(held["recording.json"])
    assert (about["format"], about["version"]) == ("normprobe recording", 1)
    assert about["meta"] == recorded().meta
    assert all(held[name][:4] == b"PAR1" for name in held if name.endswith(".parquet"))


def test_texts_are_saved_only_on_request(tmp_path: Path) -> None:
    recording = labelled()
    plain, told_all = tmp_path / "plain", tmp_path / "told"
    assert normprobe.load(recording.save(plain)).labels.empty
    assert b"1.6" not in b"".join(entries(plain.read_bytes()).values())
    assert set(normprobe.load(recording.save(told_all, labels=True)).labels["text"]) == {
        text for texts in LABELS for text in texts
    }
    assert len(recording.labels) == 42


def test_uniform_tables_are_no_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compresses beyond what a loader accepts is saved as it is."""
    monkeypatch.setattr(storage, "_FREE", 1000)
    monkeypatch.setattr(storage, "_RATIO", 2)
    recording = Recording(made("a", np.zeros((6, 4000))))
    assert_same(normprobe.load(recording.save(tmp_path / "x", labels=True)).tables, recording.tables)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged or no recording"),
        (b"layer,mean\nx,1\n", "is damaged or no recording .BadZipFile: File is not a zip file"),
        (pickle.dumps({"layers": 1}), "is damaged or no recording"),
        (packed({"word/document.xml": b"<x/>"}), "is a zip file but no recording: it has no recording.json"),
        (packed({"recording.json": b"{}"}), "is no normprobe recording"),
        (packed({"recording.json": b"[" * 100_000}), "is damaged or no recording"),
        (packed({"recording.json": b'{"format": "other"}'}), "is no normprobe recording"),
    ],
    # Without the bytes, which hold the time: workers of pytest-xdist must collect the same names.
    ids=["empty", "csv", "pickle", "document", "no format", "nested", "other format"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    refused(tmp_path, data, message)


def test_missing_file_and_folder_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no recording at .*nowhere; Recording.save writes one"):
        normprobe.load(tmp_path / "nowhere")
    with pytest.raises(RecordingError, match="is a folder; a recording is one file"):
        normprobe.load(tmp_path)
    with pytest.raises(RecordingError, match=r"cannot write .*: it is a folder; choose a path"):
        recorded().save(tmp_path)


def test_a_recording_larger_than_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(storage, "_read", full)
    refused(tmp_path, saved(), "does not fit into memory; load it on a larger machine")


@pytest.mark.parametrize("version", [2, 17, 0, -1, "1", None, 1.0])
def test_a_newer_or_unknown_format_is_named(tmp_path: Path, version: Any) -> None:
    held = entries(saved())
    about = json.loads(held["recording.json"]) | {"version": version}
    data = packed(held | {"recording.json": json.dumps(about).encode()})
    refused(tmp_path, data, f"has format {version!r}, this normprobe reads 1 to 1; install a newer one")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = saved()
    for length in [*range(0, len(data), len(data) // 60), len(data) - 1]:
        refused(tmp_path, data[:length], "is damaged or no recording")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    held = entries(saved()) | {"rows.parquet": bytes(50_000_000)}
    data = packed(held, zipfile.ZIP_DEFLATED)
    assert len(data) < 200_000
    started = time.process_time()
    refused(
        tmp_path, data, r"declares 50,\d{3},\d{3} bytes in .*; a recording is never compressed as a whole"
    )
    assert time.process_time() - started < 1


def test_a_table_that_declares_more_than_its_bytes_can_hold_is_not_read(tmp_path: Path) -> None:
    constant = pa.array(np.zeros(3_000_000, np.int64))
    data = changed("rows", lambda columns: dict.fromkeys(columns, constant))
    assert len(data) < 200_000
    refused(tmp_path, data, "declares 21,000,000 entries of rows in .* bytes: not read; save it again")
    reals = pa.array(np.zeros(20_000_000, np.float32))
    refused(
        tmp_path,
        changed("row_values", lambda _: {"value": reals}),
        "declares 20,000,000 entries of row_values",
    )


def test_texts_that_repeat_a_long_one_are_not_unfolded(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), ["x" * 1_000_000])
    other = {"part": long, "text": long, **dict.fromkeys(("example", "position"), pa.nulls(5000, pa.int64()))}
    data = packed(entries(saved()) | {"labels_base.parquet": _folded(other)})
    refused(tmp_path, data, "declares 10,000,000,000 letters of labels_base")


def _folded(columns: dict[str, Any]) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, store_schema=False)
    return bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "column", "values", "message"),
    [
        ("sites", "calls", ["1"], "has string as sites.calls, a recording int64"),
        ("sites", "layer", [b"x"], "has binary as sites.layer, a recording string"),
        ("feature_moments", "mean", [1], "has int64 as feature_moments.mean, a recording double"),
        ("row_values", "value", [1], "has int64 as row_values.value, a recording float or double"),
        ("sample_moments", "hash", [1.5], "has double as sample_moments.hash, a recording int64"),
        ("ledger_base", "affine", ["true"], "has string as ledger_base.affine, a recording bool"),
        ("labels_base", "text", [[["x"]]], "as labels_base.text, a recording string"),
    ],
)
def test_a_column_of_another_type_is_named(
    tmp_path: Path, name: str, column: str, values: list[Any], message: str
) -> None:
    def other(columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {column: pa.array(values * len(columns[column]))}

    refused(tmp_path, changed(name, other), message)


def _without(column: str) -> Any:
    return lambda columns: {name: values for name, values in columns.items() if name != column}


def _with(column: str, change: Any) -> Any:
    return lambda columns: (
        columns | {column: pa.array(change(columns[column].to_pylist()), columns[column].type)}
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sites", _without("depth"), "has nothing as sites.depth, a recording int64"),
        (
            "sites",
            lambda columns: columns | {"extra": columns["depth"]},
            "has int64 as sites.extra, a recording nothing",
        ),
        ("sites", _with("calls", lambda v: [None, *v[1:]]), "lacks entries of sites.calls"),
        ("sites", _with("layer", lambda v: ["other", *v[1:]]), "unknown layer of a site 'other'"),
        ("sites", _with("site", lambda v: ["input"] * len(v)), "a layer occurs twice"),
        ("sites", _with("n_features", lambda v: [99, *v[1:]]), "other features than its sites declare"),
        ("sites", _with("n_features", lambda v: [2**62] * len(v)), "other features than its sites declare"),
        ("sites", _with("depth", lambda v: v[::-1]), "sites out of order"),
        ("sites", _with("min_part", lambda v: ["b"] * len(v)), "unknown min_part 'b'"),
        ("sites", _with("masked", lambda v: [-1] * len(v)), "negative masked in sites"),
        ("ledger_base", _with("status", lambda v: ["fine"] * len(v)), "unknown status 'fine'"),
        ("ledger_base", _with("kind", lambda v: [None] * len(v)), "unknown kind"),
        ("ledger_base", _with("reason", lambda v: [None] * len(v)), "texts are missing"),
        (
            "feature_moments",
            lambda c: {k: v[:-1] for k, v in c.items()},
            "other features than its sites declare",
        ),
        ("sample_moments", _with("place", lambda v: v[::-1]), "samples out of order"),
        ("sample_moments", _with("place", lambda v: [99] * len(v)), "samples of unknown sites"),
        ("sample_moments", _with("part", lambda v: [1] * len(v)), "samples of unknown parts"),
        ("sample_moments", _with("count", lambda v: [-5] * len(v)), "negative count in sample_moments"),
        (
            "rows",
            lambda columns: {k: v[:-1] for k, v in columns.items()},
            "other raw values than its rows declare",
        ),
        (
            "row_values",
            lambda columns: {"value": columns["value"][:-1]},
            "other raw values than its rows declare",
        ),
        ("labels_base", _with("part", lambda v: ["zz"] * len(v)), "unknown part of a label 'zz'"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(
    tmp_path: Path, name: str, change: Any, message: str
) -> None:
    refused(tmp_path, changed(name, change), message)


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    )
    data = changed("ledger_base", lambda columns: columns | {"type": bad})
    refused(tmp_path, data, "is damaged or no recording .ArrowInvalid: ")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"parts": []}, "no usable parts in recording.json"),
        ({"parts": ["a", "a"]}, "no usable parts"),
        ({"forwards": -1, "rows": "many"}, "no usable forwards, rows in recording.json"),
        ({"options": {"samples": 5}}, "no usable options"),
        ({"versions": ["1"]}, "no usable versions"),
        ({"examples": True}, "no usable examples"),
        ({"name": "\ud800"}, "UnicodeEncodeError"),
        ({"seconds": float("nan")}, "Out of range float"),
    ],
)
def test_facts_that_nothing_can_use_are_named(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    refused(tmp_path, told(**facts), message)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    bomb = pickle.dumps(Evil(tmp_path / "ran"))
    refused(tmp_path, bomb, "is damaged or no recording")
    for name in entries(saved()):
        refused(tmp_path, packed(entries(saved()) | {name: bomb}), "is damaged or no recording")
    assert not (tmp_path / "ran").exists()
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists(), "the pickle would have run"


def use(recording: Recording) -> None:
    """Ask a loaded recording for everything."""
    for name in FRAMES:
        assert getattr(recording, name) is not None
    for layer, site in zip(recording.layers["layer"], recording.layers["site"], strict=True):
        try:
            assert recording.values(layer, site).dtype == np.float64
        except NoSamplesError:
            continue


@pytest.mark.parametrize("start", range(0, 3000, 500))
def test_a_damaged_recording_is_refused_or_right(tmp_path: Path, start: int) -> None:
    """Three thousand damaged files, half of them under checksums that fit."""
    data, path, worst = saved(), tmp_path / "x.normprobe", 0.0
    messages: list[str] = []
    for number in range(start, start + 500):
        rng = random.Random(number)
        forged = number % 2 == 1
        damaged = rng.choice(FORGED if forged else BLIND)(data, rng)
        path.write_bytes(damaged)
        began = time.process_time()
        try:
            loaded = normprobe.load(path)
        except RecordingError as error:
            messages.append(str(error))
        else:
            use(loaded)
            if not forged:
                assert_same(loaded.tables, small().tables)
        worst = max(worst, time.process_time() - began)
    assert len(messages) > 350
    assert not any("\n" in message for message in messages)
    assert worst < 10


SAVER = """
import os, sys
from pathlib import Path
import normprobe
one, other, target = (Path(name) for name in sys.argv[1:])
recordings = [normprobe.load(one), normprobe.load(other)]
for line in sys.stdin:
    recordings.reverse()
    child = os.fork()
    if child == 0:
        while True:
            for recording in recordings:
                recording.save(target)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Two hundred kills of a process that saves without pause, most of them amid writing."""
    one = small().save(tmp_path / "one")
    other = Recording(made("b", np.ones((4, 3)))).save(tmp_path / "other")
    whole = {one.read_bytes(): 0, other.read_bytes(): 0}
    target = tmp_path / "target" / "run.normprobe"
    began = time.perf_counter()
    for _ in range(5):
        small().save(target)
    longest = (time.perf_counter() - began) / 5 * 4
    command = [sys.executable, "-W", "ignore", "-c", SAVER, str(one), str(other), str(target)]
    rng, halves = random.Random(0), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        for _ in range(200):
            saver.stdin.write("go\n")
            saver.stdin.flush()
            child = int(saver.stdout.readline())
            time.sleep(rng.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            while _alive(child):
                time.sleep(0.0005)
            whole[target.read_bytes()] += 1
            for left in target.parent.glob(".normprobe-*"):
                halves += left.read_bytes() not in whole
                left.unlink()
        saver.stdin.close()
    assert min(whole.values()) > 5, "the kills fell before any new file was in place"
    assert halves > 10, "no kill fell amid writing"
    assert normprobe.load(target).meta["parts"] in (["a"], ["b"])


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
