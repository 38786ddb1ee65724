"""The file as its page describes it: tables, metadata, and a reader in another language that merges alike."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.kernels.distributions.bins import edges
from normprobe.kernels.moments import MOMENT_FIELDS
from normprobe.tables.columns.tables import BASE, HAVE_POWERS, LEDGER, OPTIONAL, POWERS
from normprobe.tables.distributions.bin_counts import ZERO
from normprobe.tables.storage import FORMAT
from normprobe.tables.validate import check_meta
from tests.helpers import expert_models, quantizers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/file-format.md").read_text()
SCHEMA = json.loads((ROOT / "docs/static/recording.schema.json").read_text())
READER = ROOT / "examples/javascript"
OLD = Path(__file__).parent / "data/recorded_by_0_1_0.normprobe"
TYPES = {
    "string": "text",
    "int64": "integer",
    "Int64": "integer or missing",
    "float64": "real",
    "boolean": "truth or missing",
}


def described(table: str) -> Iterator[tuple[str, str, bool]]:
    """Each column that the page has of a table: name, type, whether older files may lack it."""
    section = PAGE.split(f"### `{table}`\n")[1].split("\n### ")[0]
    for row in re.findall(r"^\| (`.*) \|$", section, flags=re.MULTILINE):
        names, said, *_ = re.split(r" (?<!\\)\| ", row)
        kinds, _, optional = said.partition("; ")
        first, *rest = re.split(r", (?:else )?", kinds)
        columns = re.findall(r"`(\w+)`", names)
        of = [first, *rest] if len(rest) == len(columns) - 1 else [first, *(rest or [first]) * len(columns)]
        yield from ((name, kind, bool(optional)) for name, kind in zip(columns, of, strict=False))


class TestPage:
    @pytest.mark.parametrize("table", BASE)
    def test_names_every_column_with_its_type(self, table: str) -> None:
        found = {name: kind for name, kind, _ in described(table)}
        powers = dict.fromkeys(POWERS, "float64") if table in HAVE_POWERS else {}
        expected = {name: TYPES[kind] for name, kind in (BASE[table] | powers).items()}
        if table == "ledger_base":
            expected = {name: kind for name, kind in expected.items() if name not in LEDGER}
        assert found == expected

    @pytest.mark.parametrize("table", BASE)
    def test_says_what_older_files_may_lack(self, table: str) -> None:
        found = {name for name, _, optional in described(table) if optional}
        if table == "ledger_base":
            (more,) = re.findall(r"^(`normalizes`.*) are \*optional\*\.$", PAGE, flags=re.MULTILINE)
            found |= set(re.findall(r"`(\w+)`", more))
        assert found == OPTIONAL.get(table, frozenset()) | set(POWERS if table in HAVE_POWERS else ())

    def test_names_every_entry_of_the_file(self, tmp_path: Path) -> None:
        experts = normprobe.record(expert_models.mixtral(), [expert_models.batch()], experts=True)
        grouped = normprobe.record(nn.Linear(3, 2), [torch.randn(2, 5, 3)], groups="first")
        names: set[str] = set()
        for made in (trained(), experts, grouped):
            with zipfile.ZipFile(made.save(tmp_path / "a.normprobe")) as archive:
                names |= set(archive.namelist())
                assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        section = PAGE.split("## Container")[1].split("\n## ")[0]
        assert set(re.findall(r"^\| `([\w.]+)` \|", section, flags=re.MULTILINE)) == names

    def test_says_where_bins_begin(self) -> None:
        assert f"{ZERO} for exact zeros" in PAGE
        k = np.arange(ZERO + 1)
        q, r = k // 8, k % 8
        by_the_page = np.where(q > 0, (1 + r / 8) * 2.0 ** (q - 127), r / 8 * 2.0**-126)
        assert (by_the_page == edges()).all()

    def test_a_column_that_is_not_known_is_refused(self, tmp_path: Path) -> None:
        path = padded().save(tmp_path / "a.normprobe")
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        table = pq.read_table(io.BytesIO(entries["sites.parquet"]))
        buffer = io.BytesIO()
        pq.write_table(table.append_column("new", pa.array([1.0] * len(table))), buffer)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (entries | {"sites.parquet": buffer.getvalue()}).items():
                archive.writestr(name, data)
        with pytest.raises(normprobe.RecordingError, match=r"double as sites\.new"):
            normprobe.load(path)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (entries | {"new.parquet": buffer.getvalue()}).items():
                archive.writestr(name, data)
        assert normprobe.load(path).layers.equals(padded().layers)


def padded(part: str = "a", batches: slice = slice(None)) -> normprobe.Recording:
    return normprobe.record(quantizers.llama(), quantizers.batches(padded=True)[batches], part=part)


def trained() -> normprobe.Recording:
    """Two windows of training with gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: Any = {"gradients": True, "kurtosis": True, "quantiles": True}
    with normprobe.Probe(model, window=2, part="run", **options) as probe:
        for step in range(4):
            probe.step(step)
            model(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return probe.recording


KINDS = {
    "masks": padded,
    "windows and gradients": trained,
    "one window": lambda: trained().window(0),
    "merged": lambda: normprobe.merge(padded("a", slice(1)), padded("b", slice(1, None))),
    "0.1.0": lambda: normprobe.load(OLD),
    "annotated": lambda: normprobe.load(OLD).annotate(corpus="wiki", tags=["a", {"b": 1}]),
    "train mode": lambda: normprobe.record(nn.Linear(2, 2), torch.ones(3, 2), mode="train"),
}


def about(recording: normprobe.Recording, folder: Path) -> Any:
    with zipfile.ZipFile(recording.save(folder / "x.normprobe")) as archive:
        return json.loads(archive.read("recording.json"))


class TestSchema:
    def test_is_one(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        assert SCHEMA["properties"]["version"]["maximum"] == FORMAT

    @pytest.mark.parametrize("kind", KINDS)
    def test_fits_what_is_saved(self, kind: str, tmp_path: Path) -> None:
        jsonschema.validate(about(KINDS[kind](), tmp_path), SCHEMA)

    def test_fits_the_old_file_as_it_lies_there(self) -> None:
        with zipfile.ZipFile(OLD) as archive:
            jsonschema.validate(json.loads(archive.read("recording.json")), SCHEMA)

    def test_names_every_key_that_a_recording_has(self, tmp_path: Path) -> None:
        known = SCHEMA["properties"]["meta"]["properties"]
        for kind in ("masks", "windows and gradients", "merged", "0.1.0", "train mode"):
            meta = about(KINDS[kind](), tmp_path)["meta"]
            assert set(meta) <= set(known)
            assert set(meta["options"]) <= set(known["options"]["properties"])
            for window in meta.get("windows", []):
                assert set(window) == set(SCHEMA["$defs"]["window"]["properties"])

    @pytest.mark.parametrize("wrong", [None, -1, 1.5, True, [], {}, [3], {"samples": -1}])
    def test_refuses_what_loading_refuses(self, wrong: Any, tmp_path: Path) -> None:
        whole = about(trained(), tmp_path)
        validator = jsonschema.Draft202012Validator(SCHEMA)
        for name in SCHEMA["properties"]["meta"]["required"]:
            changed = deepcopy(whole)
            changed["meta"][name] = wrong
            refused = bool(check_meta(changed["meta"]))
            # The schema says more of digests than loading asks: it merges what is there.
            if name != "digests" and not (name == "seconds" and wrong is True):
                assert refused == (not validator.is_valid(changed)), name
            del changed["meta"][name]
            assert check_meta(changed["meta"])
            assert not validator.is_valid(changed)


@pytest.fixture(scope="module")
def reader() -> Path:
    """The reader beside its packages."""
    if not shutil.which("node"):
        pytest.skip("no node on the path: the reader in JavaScript is not run")
    if not (READER / "node_modules/hyparquet").exists():
        pytest.skip("npm install was not run in examples/javascript: the reader in JavaScript is not run")
    return READER / "merge.mjs"


def merged_in_javascript(reader: Path, *recordings: normprobe.Recording) -> Any:
    paths = [Path(f"{at}.normprobe") for at in range(len(recordings))]
    for recording, path in zip(recordings, paths, strict=True):
        recording.save(path)
    done = subprocess.run(["node", reader, *paths], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


class Sometimes(nn.Module):
    """A norm that one part only reaches, behind a Linear that reads a feature without a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.norm(y.nan_to_num()) if len(x) > 5 else y


def parts_of_a_model_that_branches() -> list[normprobe.Recording]:
    model = Sometimes().eval()
    few, many = torch.randn(3, 4, dtype=torch.float32), torch.randn(9, 4)
    few[:, 2] = torch.nan
    many[4, 1] = torch.inf
    return [normprobe.record(model, few, part="few"), normprobe.record(model, many + 1e3, part="many")]


class TestJavaScript:
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("kind", ["masks", "branches"])
    def test_merges_as_normprobe_does(self, kind: str, reader: Path) -> None:
        parts = {
            "masks": lambda: [padded("a", slice(1)), padded("b", slice(1, None))],
            "branches": parts_of_a_model_that_branches,
        }[kind]()
        found = merged_in_javascript(reader, *parts)
        whole = normprobe.merge(*parts).tables
        expected = list(zip(whole.sites["layer"], whole.sites["site"], strict=True))
        assert sorted(tuple(place["key"]) for place in found) == sorted(expected)
        of = {tuple(place["key"]): place["features"] for place in found}
        features = [moments for key in expected for moments in of[key]]
        assert len(features) == len(whole.feature_moments)
        for field in MOMENT_FIELDS.values():
            own = np.array([float(moments[field.column]) for moments in features])
            np.testing.assert_allclose(own, whole.feature_moments[field.column], rtol=1e-12, atol=0)

    def test_counts_no_part_of_an_older_file_twice(self, reader: Path) -> None:
        old = normprobe.load(OLD)
        assert "a part would count twice" in merged_in_javascript(reader, old, old)

    def test_refuses_two_models(self, reader: Path) -> None:
        other = normprobe.record(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), part="b")
        assert "recordings of LlamaForCausalLM and Sequential" in merged_in_javascript(
            reader, padded(), other
        )

    def test_is_short(self) -> None:
        assert len((READER / "merge.mjs").read_text().splitlines()) <= 60
