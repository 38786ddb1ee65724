"""The frozen frames: built from moments, saved, loaded, merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import NoSamplesError, RecordingError
from normprobe.tables import build, derive
from normprobe.tables.activations import without
from normprobe.tables.close_names import close_names
from normprobe.tables.columns.tables import based
from normprobe.tables.distributions.bin_counts import count_frame, counts_at, no_counts
from normprobe.tables.distributions.quantiles import histogram_of, quantile_table
from normprobe.tables.expert_frames import (
    ExpertFrames,
    expert_frames,
    no_expert_moments,
    no_expert_places,
)
from normprobe.tables.expert_tables import expert_feature_table, expert_table, together
from normprobe.tables.groups import (
    group_frames,
    grouped_features,
    grouped_layers,
    groups_at,
    no_groups,
)
from normprobe.tables.listed_experts import listed_experts
from normprobe.tables.parameters import no_parameters, parameter_frame, parameter_table
from normprobe.tables.records import ExpertRecord, LayerRecord
from normprobe.vocabulary import GRADIENT_SITES, INPUT, OUTPUT, site_order

_COPIES_ON_WRITE = int(pd.__version__.split(".", maxsplit=1)[0]) >= 3
_STRUCTURE = ("parts", "digests", "options", "windows", "stage", "contents", "replicas")
"""What of ``meta`` merging rests on."""


class HasTables(Protocol):
    """What holds tables: a recording."""

    @property
    def tables(self) -> Tables:
        """The frames behind it."""


# Compared and hashed by identity: frames have no truth value, and measures are cached by their tables.
@dataclass(frozen=True, eq=False)
class Tables:
    """Everything one probe measured: base frames, which hold moments, and the public tables made from them.

    Attributes:
        ledger_base: a row per layer.
        sites: a row per place, that is, per layer and site that fired, in order of first execution.
        feature_moments: a row per place and feature.
        sample_moments: a row per place and kept sample.
        rows: a row per place and kept raw row.
        row_values: the numbers of these rows, one row after the other, float32 or float64.
        labels_base: part, example, position and text of kept samples, where the text is known.
        facts: model, data, counts, options and versions, as JSON holds them.
        parameter_moments: a row per parameter, where gradients were measured.
        expert_places: a row per module of experts, site and expert, where those of one weight were measured.
        expert_moments: a row per such place and feature.
        bin_counts: a row per place and bin that holds a number, where quantiles were asked for.
        group_sites: a row per place and group, where samples are told apart; likewise `group_moments`.
        group_moments: a row per place, group and feature.
        history_source: gives what changed over the windows that these tables are the merge of, for
            `normprobe.tables.measures.history`; None of tables that stand for themselves.
        whole: of `activations`, the tables that they were made from; else None.
    """

    ledger_base: pd.DataFrame
    sites: pd.DataFrame
    feature_moments: pd.DataFrame
    sample_moments: pd.DataFrame
    rows: pd.DataFrame
    row_values: NDArray[Any]
    labels_base: pd.DataFrame
    facts: Mapping[str, Any]
    parameter_moments: pd.DataFrame = field(default_factory=no_parameters)
    expert_places: pd.DataFrame = field(default_factory=no_expert_places)
    expert_moments: pd.DataFrame = field(default_factory=no_expert_moments)
    bin_counts: pd.DataFrame = field(default_factory=no_counts)
    group_sites: pd.DataFrame = field(default_factory=lambda: no_groups()["group_sites"])
    group_moments: pd.DataFrame = field(default_factory=lambda: no_groups()["group_moments"])
    history_source: Callable[[], Any] | None = None
    whole: Tables | None = None

    @property
    def layers(self) -> pd.DataFrame:
        """A row per layer and site; only layers that fired, in order of first execution."""
        return _handed_out(self._layers)

    @property
    def features(self) -> pd.DataFrame:
        """A row per layer, site and feature."""
        return _handed_out(self._features)

    @property
    def samples(self) -> pd.DataFrame:
        """A row per layer, site and kept sample."""
        return _handed_out(self._samples)

    @property
    def ledger(self) -> pd.DataFrame:
        """A row per layer in order of definition, fired or not."""
        return _handed_out(self._ledger)

    @property
    def parameters(self) -> pd.DataFrame:
        """A row per parameter of a layer, where gradients were measured."""
        return _handed_out(self._parameters)

    @property
    def experts(self) -> pd.DataFrame:
        """A row per module of experts, site and expert."""
        return _handed_out(self._experts)

    @property
    def expert_features(self) -> pd.DataFrame:
        """A row per module of experts, site, expert and feature."""
        return _handed_out(self._expert_features)

    @property
    def quantiles(self) -> pd.DataFrame:
        """A row per layer and site, where quantiles were asked for."""
        return _handed_out(self._quantiles)

    @property
    def labels(self) -> pd.DataFrame:
        """A row per labelled sample: part, example, position, text."""
        return _handed_out(self.labels_base)

    @property
    def meta(self) -> dict[str, Any]:
        """Model, data, counts, options and versions."""
        # Throughout, for facts hold lists, and merging rests on them.
        return deepcopy(dict(self.facts))

    @cached_property
    def activations(self) -> Tables:
        """These tables of Linears and norms without gradients; these very ones if that is all."""
        return self._without(GRADIENT_SITES)

    @cached_property
    def of_default_kinds(self) -> Tables:
        """These tables of Linears and norms; these very ones if there are no others."""
        return self._without(())

    def _without(self, left_out: tuple[str, ...]) -> Tables:
        found = without(
            self.ledger_base,
            self.sites,
            self.feature_moments,
            sample_moments=self.sample_moments,
            rows=self.rows,
            row_values=self.row_values,
            bin_counts=self.bin_counts,
            left_out=left_out,
        )
        if found is None:
            return self
        known = self.parameter_moments["layer"].isin(found["ledger_base"]["layer"])
        parameters = based("parameter_moments", self.parameter_moments[known])
        groups = groups_at(self.group_sites, self.group_moments, found["sites"])
        return replace(self, **found, **groups, parameter_moments=parameters, whole=self)

    @property
    def is_grouped(self) -> bool:
        """Whether samples were told apart."""
        return not self.group_sites.empty or "groups" in self.facts["options"]

    @cached_property
    def ungrouped(self) -> Tables:
        """The same without groups, as where none were asked for; these very ones where none were."""
        if not self.is_grouped:
            return self
        # Merging compares options, so that this one has to go with the groups.
        options = {name: held for name, held in self.facts["options"].items() if name != "groups"}
        return replace(self, **no_groups(), facts={**self.facts, "options": options})

    def public(self, name: str) -> pd.DataFrame:
        """A table as users see it: of samples that were told apart with a row for each group.

        Args:
            name: layers, features, samples, ledger or parameters.
        """
        frame = self._grouped.get(name) if self.is_grouped else None
        table: pd.DataFrame = getattr(self, name) if frame is None else _handed_out(frame)
        return table

    @cached_property
    def _grouped(self) -> dict[str, pd.DataFrame]:
        groups = self.group_sites, self.group_moments, self.sites
        return {
            "layers": grouped_layers(*groups, self.ledger_base),
            "features": grouped_features(*groups, self.feature_moments, self.ledger_base),
        }

    @cached_property
    def _layers(self) -> pd.DataFrame:
        values = [self.values_at(place) for place in range(len(self.sites))]
        return derive.layer_table(self.sites, self.feature_moments, values, self.ledger_base)

    @cached_property
    def _features(self) -> pd.DataFrame:
        return derive.feature_table(self.feature_moments, self.sites, self.ledger_base)

    @cached_property
    def _samples(self) -> pd.DataFrame:
        return derive.sample_table(self.sample_moments, self.sites, self.ledger_base, self.facts["parts"])

    @cached_property
    def _ledger(self) -> pd.DataFrame:
        return derive.ledger_table(self.ledger_base, self.sites, self.feature_moments)

    @cached_property
    def _parameters(self) -> pd.DataFrame:
        return parameter_table(self.parameter_moments, self.ledger_base)

    @cached_property
    def expert_frames(self) -> ExpertFrames:
        """What is held of experts, those that are modules of a list among them."""
        own = ExpertFrames(self.expert_places, self.expert_moments)
        return together(own, listed_experts(self.sites, self.feature_moments, self.ledger_base))

    @cached_property
    def _experts(self) -> pd.DataFrame:
        return expert_table(self.expert_frames, self.ledger_base)

    @cached_property
    def _expert_features(self) -> pd.DataFrame:
        return expert_feature_table(self.expert_frames)

    @cached_property
    def _quantiles(self) -> pd.DataFrame:
        kinds = derive.fact("kind", self.sites, self.ledger_base)
        return quantile_table(self.bin_counts, self.sites, kinds)

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        return {key: at for at, key in enumerate(zip(self.sites["layer"], self.sites["site"], strict=True))}

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Where the raw numbers of each place begin, and where the last end."""
        # Rows are in order of place; a file in which they are not is refused.
        edges = np.searchsorted(self.rows["place"], np.arange(len(self.sites) + 1))
        return derive.row_starts(self.sites, self.rows)[edges]

    def values_at(self, place: int) -> NDArray[Any]:
        """The numbers of the kept raw rows of a place, one row after the other."""
        return self.row_values[self._bounds[place] : self._bounds[place + 1]]

    def values(self, layer: str, site: str) -> NDArray[np.float64]:
        """The kept raw rows of one layer and site, in order of hash.

        Returns:
            float64, shape (rows, features).

        Raises:
            NoSamplesError: nothing is kept under these names.
        """
        place = self._places.get((layer, site))
        kept = self.row_values[:0] if place is None else self.values_at(place)
        if place is None or not len(kept):
            raise NoSamplesError(self._nothing_kept(layer, site))
        # A copy of float64, too: what a caller writes into it does not reach the recording.
        return kept.astype(np.float64).reshape(-1, self.sites["n_features"].iloc[place])

    def histogram(self, layer: str, site: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """How many numbers of one layer and site lie in each bin, and the bins' edges.

        Raises:
            NoSamplesError: nothing is counted under these names.
        """
        place = self._places.get((layer, site), -1)
        bins, counts = counts_at(self.bin_counts, place)
        if not len(bins):
            raise NoSamplesError(self._nothing_kept(layer, site, "numbers", "counted", "quantiles=True"))
        return histogram_of(bins, counts)

    def _nothing_kept(
        self, layer: str, site: str, what: str = "raw rows", done: str = "kept", option: str = "values > 0"
    ) -> str:
        known = dict(zip(self.ledger_base["layer"], self.ledger_base["status"], strict=True))
        here = sorted({INPUT, OUTPUT, *self.sites["site"]}, key=site_order)
        if site not in here:
            *others, last = map(repr, here)
            return f"site {site!r} is unknown; ask for {', '.join(others)} or {last}"
        if layer not in known:
            close = close_names(str(layer), list(known))
            hint = f"; close names: {', '.join(close)}" if close else ""
            return f"layer {layer!r} is not in this recording; its ledger names {len(known)} layers{hint}"
        if known[layer] != "fired":
            return f"layer {layer!r} has no values: {known[layer]}; see the ledger's reason"
        return f"no {what} of {layer!r} {site} are {done}; probe with {option} and give the layer data"

    def annotate(self, facts: Mapping[str, Any]) -> Tables:
        """The same tables with these facts in ``meta``.

        Raises:
            RecordingError: JSON cannot hold a fact, or merging rests on it.
        """
        fixed = sorted(set(facts) & set(_STRUCTURE))
        if fixed:
            raise RecordingError(
                f"{fixed[0]!r} cannot be annotated: merging rests on it; annotate other facts"
            )
        for name, fact in facts.items():
            try:
                # Python writes NaN, which is no JSON: other readers would refuse the whole file.
                json.dumps(fact, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise RecordingError(
                    f"annotate takes what JSON holds, got {name}={fact!r}; convert it to text or a number"
                ) from error
        # Copied throughout, so that what a caller changes in a fact later does not reach the tables.
        return replace(self, facts=deepcopy({**self.facts, **facts}))


def _handed_out(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy whose changes do not reach the frame; pandas 3 makes it when, and if, the caller writes."""
    return frame.copy(deep=not _COPIES_ON_WRITE)


def build_tables(
    records: Sequence[LayerRecord],
    meta: Mapping[str, Any],
    part: str,
    step_of: Callable[[int], int] = int,
    experts: Sequence[ExpertRecord] = (),
) -> Tables:
    """Build the frames from what a probe measured.

    Args:
        records: of each layer.
        meta: the circumstances.
        part: the name of the probe's share of the data.
        step_of: the step of a forward, by its running number; where none is told of, that number.
        experts: of each module of experts that was measured as such.
    """
    every = build.places(records)
    rows, values = build.row_frame(every)
    return Tables(
        ledger_base=based("ledger_base", build.ledger_frame(records)),
        sites=based("sites", build.site_frame(every, part, step_of)),
        feature_moments=based("feature_moments", build.feature_frame(every)),
        sample_moments=based("sample_moments", build.sample_frame(every)),
        rows=based("rows", rows),
        row_values=values,
        labels_base=based("labels_base", build.label_frame(every, part)),
        facts=deepcopy(dict(meta)),
        parameter_moments=parameter_frame(records),
        bin_counts=count_frame([place.site.distribution for place in every]),
        **expert_frames(experts).by_name,
        **group_frames(every, part, step_of),
    )
