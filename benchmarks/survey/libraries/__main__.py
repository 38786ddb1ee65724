"""Attach a probe to models of third-party libraries, and hold what it says to a float64 reference.

``python -m benchmarks.survey.libraries [--only GLOB ...] [--verbose]`` builds tiny models with random weights
of every library of `catalogue` that is installed (`requirements.txt` beside this folder pins them), runs each
bare, under hooks of the survey's own, and probed, and prints what does not hold, a table by library and the
totals. A library that is not installed is named. ``--only "timm *"`` takes a library's models.
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator

from benchmarks.survey.libraries import verdicts
from benchmarks.survey.libraries.catalogue import LIBRARIES
from benchmarks.survey.libraries.check import Fault, Result, examine
from benchmarks.survey.libraries.entry import Entry

COLUMNS = ("models", "layers", "fired", "exact", "functional", "declared", "judged")
SORTS = ("crash", "outputs", "hooks", "missed", "silent", "name", "kind", "unit", "inexact", "mask", "weight")
WARNINGS = ("true", "false", "open")
"""Warnings of models as they were built, by the verdict of `warnings.csv`."""


def entries(only: list[str]) -> Iterator[tuple[str, Entry | str]]:
    """Library and model; the reason in place of a model where the library cannot be imported."""
    for library, models in LIBRARIES.items():
        if only and not any(library == pattern.split()[0] or "*" in pattern.split()[0] for pattern in only):
            continue
        try:
            for entry in models():
                if not only or any(fnmatch.fnmatchcase(f"{library} {entry.name}", p) for p in only):
                    yield library, entry
        except Exception as error:  # whatever an import of a library says where it does not fit
            yield library, " ".join(f"{type(error).__name__}: {error}".split())


def survey(only: list[str], verbose: bool) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """Examine every model; counts by library, and the libraries that are absent."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    absent: dict[str, str] = {}
    for library, entry in entries(only):
        if isinstance(entry, str):
            absent[library] = entry
            continue
        start = time.perf_counter()
        try:
            result = examine(entry)
        except Exception as error:  # a crash is what the survey looks for
            text = " ".join(f"{type(error).__name__}: {error}".split())
            result = Result(faults=[Fault("crash", "", "", text[:300])])
        _count(counts[library], library, entry, result)
        if verbose or result.faults or result.warnings:
            spent = time.perf_counter() - start
            print(f"{library} {entry.name}: {result.exact} of {result.fired} exact, {spent:.1f} s")
            _tell(library, entry, result)
    return counts, absent


def _count(counts: Counter[str], library: str, entry: Entry, result: Result) -> None:
    counts["models"] += 1
    for name in COLUMNS[1:]:
        counts[name] += getattr(result, name)
    for fault in result.faults:
        counts[fault.sort] += 1
        counts["known"] += verdicts.is_known(library, entry.name, fault)
    for check, layer, _ in result.warnings:
        counts[verdicts.of_warning(library, entry.name, check, layer)] += 1


def _tell(library: str, entry: Entry, result: Result) -> None:
    """What does not hold, alike faults of one class on one line."""
    alike: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in result.faults:
        alike[fault.sort, fault.type].append(fault)
    for (sort, cls), faults in alike.items():
        known = ", known" if verdicts.is_known(library, entry.name, faults[0]) else ""
        print(f"  {sort}{known}: {cls} x{len(faults)}, {faults[0].layer}: {faults[0].text}", flush=True)
    for check, layer, message in result.warnings:
        found = verdicts.of_warning(library, entry.name, check, layer)
        print(f"  warning ({found}): {check} at {layer}: {message[:160]}")


def show(counts: dict[str, Counter[str]], absent: dict[str, str]) -> None:
    """Print the table and the totals."""
    columns = (*COLUMNS, *SORTS, "known", *WARNINGS)
    print(f"{'library':27}" + "".join(f"{name:>11}" for name in columns))
    total: Counter[str] = sum(counts.values(), Counter())
    for library, row in [*sorted(counts.items()), ("all", total)]:
        print(f"{library:27}" + "".join(f"{row[name]:>11}" for name in columns))
    measured = total["fired"] - total["functional"]
    print(f"\n{total['exact']} of {measured} measured layers exact; {len(counts)} libraries")
    for library, reason in absent.items():
        print(f"absent: {library} ({reason})")


def main() -> None:
    """Run the survey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help='globs over "library model"')
    parser.add_argument("--verbose", action="store_true", help="a line per model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    show(*survey(options.only, options.verbose))


if __name__ == "__main__":
    main()
