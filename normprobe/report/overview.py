"""What a recording saw and what it did not, in the words that page, notebook and terminal share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.formatting import format_count
from normprobe.report.layer_summary import LINEAR
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_PATH = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")
_ANY_MODEL = re.compile(r"models?|weights|final|best|checkpoints?([-_]\d+)?|[0-9a-f]{40}")

SHAPES = {"error": "■", "warning": "▲", "info": "●"}
WORDS = {"error": "Error", "warning": "Warning", "info": "Note"}


def check_measured(tables: Tables) -> None:
    """Raise unless at least one layer was measured.

    Raises:
        NoSamplesError: no layer fired while the probe was measuring.
    """
    if not measured_any(tables):
        total = len(tables.ledger)
        raise NoSamplesError(
            f"nothing was measured: none of the {total} layers of {tables.meta['model']} fired in the probe. "
            "A report needs at least one forward: call the model inside `with Probe(model) as probe:`."
        )


def measured_any(tables: Tables) -> bool:
    """Whether any layer saw a sample."""
    return bool((tables.layers["n_samples"] > 0).any())


def display_name(tables: Tables, layer: str) -> str:
    """The name to show for a layer: its own, or the class of a model that is itself a layer."""
    return layer or str(tables.meta["model"])


def heading(name: str) -> str:
    """What to call a model in a heading: of a path its end, of any other name all.

    >>> heading("/models/smollm2/SmolLM2-135M.gguf"), heading("./run/checkpoint-100"), heading("org/model")
    ('SmolLM2-135M', 'run/checkpoint-100', 'org/model')
    """
    if not (_PATH.match(name) or name.endswith(".gguf")):
        return name
    *folders, last = [name, *(part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..", "~"))]
    last, folders = last.removesuffix(".gguf"), folders[1:]
    return f"{folders[-1]}/{last}" if folders and _ANY_MODEL.fullmatch(last) else last


def one_line_text(text: str) -> str:
    """Replace line breaks and control characters, which would break a terminal's lines, by blanks."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def kind_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Count the layers of each kind, norms first, the commonest kind first."""
    counts = {str(kind): int(n) for kind, n in ledger["kind"].value_counts().items()}
    return dict(sorted(counts.items(), key=lambda item: (item[0] == LINEAR, -item[1], item[0])))


def unseen(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger's rows of layers that were not measured."""
    return ledger[ledger["status"] != "fired"]


def unseen_reasons(ledger: pd.DataFrame) -> str:
    """Count the unseen layers by status: `2 never fired, 1 bypassed`."""
    counts = unseen(ledger)["status"].value_counts(sort=False)
    return ", ".join(f"{n:,} {status}" for status, n in counts.items())


def severity_counts(findings: pd.DataFrame) -> dict[str, int]:
    """Count findings by severity, worst first, those without any left out."""
    return {s: int(n) for s in SHAPES if (n := (findings["severity"] == s).sum())}


def data_facts(meta: Mapping[str, Any]) -> list[str]:
    """Say what was run: data, samples, padding, dtype, device, mode, and `every` where it is not 1."""
    every = int(meta["options"].get("every", 1))
    unit, example = str(meta["unit"]), str(meta["example_unit"])
    data = meta.get("data") or format_count(int(meta["examples"]), example)
    facts = [str(data)]
    if meta["rows"] != meta["examples"]:
        facts.append(f"{format_count(int(meta['rows']), unit)} measured")
    if meta["padding"]:
        facts.append(f"{int(meta['padding']):,} padding left out")
    facts += [f"{meta['dtype']} on {meta['device']}", mode_words(meta["training"])]
    if every != 1:
        facts.append(f"every {ordinal(every)} forward ({meta['measured']:,} of {meta['forwards']:,})")
    return facts


def mode_words(training: list[str]) -> str:
    """Name the modes that layers ran in."""
    words = {"eval": "evaluation", "train": "training"}
    return " and ".join(words.get(mode, mode) for mode in training) + " mode"


def ordinal(number: int) -> str:
    """Write 2 as `2nd` and 11 as `11th`."""
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def single_sample(tables: Tables) -> bool:
    """Whether no layer saw more than one sample, so that variances across samples say nothing."""
    return int(tables.layers["n_samples"].max()) == 1


def first_nonfinite(layers: pd.DataFrame) -> tuple[str, str, int] | None:
    """Find where values that are not finite begin.

    Returns:
        The first layer, in order of execution, whose output has one while its input has none, with the
        site `output` and the count; else the first layer that has any, with the site; else None.
    """
    ordered = layers.sort_values("depth", kind="stable")
    counts = ordered.pivot_table(index="layer", columns="site", values="nonfinite", sort=False, aggfunc="sum")
    counts = counts.reindex(columns=[INPUT, OUTPUT]).fillna(
        0
    )  # of a site that was not measured none is known
    made = counts[(counts[OUTPUT] > 0) & (counts[INPUT] == 0)]
    if len(made):
        return str(made.index[0]), OUTPUT, int(made[OUTPUT].iloc[0])
    dirty = counts[counts.max(axis=1) > 0]
    if dirty.empty:
        return None
    site = INPUT if dirty[INPUT].iloc[0] else OUTPUT
    return str(dirty.index[0]), site, int(dirty[site].iloc[0])


def extent(tables: Tables, row: pd.Series) -> str:
    """Say how many layers share a finding: `36 of 61 norms`; empty where it is one layer or none."""
    affected = int(row["layers_affected"])
    if affected < 2:
        return ""
    ledger = tables.ledger[tables.ledger["status"] == "fired"]
    linear = ledger["kind"] == LINEAR
    named = ledger["layer"].isin([str(row["layer"]), *text_or_empty(row["affected"]).split("; ")])
    if not named.any():
        return f"{affected:,} layers"
    if linear[named].nunique() > 1:
        return f"{affected:,} of {len(ledger):,} layers"
    same = linear == linear[named].iloc[0]
    return f"{affected:,} of {same.sum():,} {'Linear' if linear[named].iloc[0] else 'norms'}"


@dataclass(frozen=True)
class Value:
    """A number of the table: as shown, and as sorted (empty where the shown text sorts by itself)."""

    shown: str
    key: str


def text_or_empty(value: object) -> str:
    """The text of a cell of a frame; empty where it is missing."""
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
