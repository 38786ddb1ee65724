"""Stages of a pipeline: recordings of other layers of one model, united by the layers' names.

A recording of a stage has ``meta["stage"]``, its index and how many stages there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from normprobe.errors import RecordingError
from normprobe.tables.columns.tables import based
from normprobe.tables.frames import Tables
from normprobe.tables.merging.ledgers import never_fired

_ELSEWHERE = "it is in another stage"


def stage_of(tables: Tables) -> tuple[int, int] | None:
    """The index of a recording's stage and how many there are; None of a whole model."""
    stage = tables.facts.get("stage")
    return None if stage is None else (stage[0], stage[1])


def by_stage(parts: Sequence[Tables]) -> list[list[Tables]]:
    """The parts of each stage, in order of stages; those of whole models are one.

    Raises:
        RecordingError: some are stages and some are not, or of pipelines of another number of stages.
    """
    stages = [stage_of(part) for part in parts]
    if len({stage and stage[1] for stage in stages}) > 1:
        raise RecordingError(
            "recordings of a pipeline's stages and others, or of pipelines of other numbers of "
            "stages, cannot be merged: first merge the stages of one run, all at once"
        )
    held: dict[Any, list[Tables]] = {}
    for stage, part in zip(stages, parts, strict=True):
        held.setdefault(stage, []).append(part)
    return [held[stage] for stage in sorted(held, key=lambda stage: stage or (0, 0))]


def united(stages: Sequence[Tables]) -> list[Tables]:
    """The stages with the layers of all of them, in order, ``depth`` running on from one to the next.

    Args:
        stages: of each stage its merged parts, in order.
    """
    indices = {stage_of(stage) for stage in stages}
    of = {stage[1] for stage in indices if stage is not None}.pop()
    missing = sorted(set(range(of)) - {stage[0] for stage in indices if stage is not None})
    said = [f"of {of} stages {', '.join(map(str, missing))} are missing: their layers are in no table"]
    ledgers, sites, depth = [], [], 0
    for stage in stages:
        ledgers.append(stage.ledger_base.assign(depth=stage.ledger_base["depth"] + depth))
        sites.append(stage.sites.assign(depth=stage.sites["depth"] + depth))
        depth += int(stage.ledger_base["depth"].max() + 1) if stage.ledger_base["depth"].notna().any() else 0
    every = pd.concat(ledgers, ignore_index=True).drop_duplicates(["layer", "type"])
    model = "; ".join(dict.fromkeys(stage.facts["model"] for stage in stages))
    return [
        replace(
            stage,
            ledger_base=_with_every_layer(ledger, every),
            sites=based("sites", own),
            facts={
                **{name: fact for name, fact in stage.facts.items() if name != "stage"},
                "model": model,
                "warnings": [*stage.facts["warnings"], *(said if missing else ())],
            },
        )
        for stage, ledger, own in zip(stages, ledgers, sites, strict=True)
    ]


def _with_every_layer(ledger: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """A stage's ledger with the layers of all stages, those of others never fired."""
    elsewhere = never_fired(every[~every["layer"].isin(ledger["layer"])], _ELSEWHERE)
    elsewhere = elsewhere.astype(ledger.dtypes.to_dict())
    whole = pd.concat([ledger, elsewhere], ignore_index=True)
    order = {layer: at for at, layer in enumerate(every["layer"])}
    return based("ledger_base", whole.sort_values("layer", key=lambda names: names.map(order), kind="stable"))
