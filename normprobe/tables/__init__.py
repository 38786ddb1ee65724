"""The frozen frames: built from moments, saved, loaded, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import NoSamplesError
from normprobe.records import LayerRecord
from normprobe.tables import build, derive
from normprobe.tables.schema import based

__all__ = ["Tables", "build_tables"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything one probe measured: base frames, which hold moments, and the public tables made from them.

    Attributes:
        ledger_base: a row per layer.
        sites: a row per layer and site.
        feature_moments: a row per layer, site and feature.
        sample_moments: a row per layer, site and kept sample.
        rows: a row per layer, site and kept raw row.
        labels: part, example, position and text of kept samples, where the text is known.
        meta: model, data, counts, options and versions, as JSON holds them.
    """

    ledger_base: pd.DataFrame
    sites: pd.DataFrame
    feature_moments: pd.DataFrame
    sample_moments: pd.DataFrame
    rows: pd.DataFrame
    labels: pd.DataFrame
    meta: Mapping[str, Any]

    @cached_property
    def _layers(self) -> pd.DataFrame:
        return derive.layer_table(self.sites, self.feature_moments, self.rows, self.ledger_base)

    @cached_property
    def _features(self) -> pd.DataFrame:
        return derive.feature_table(self.feature_moments, self.ledger_base)

    @cached_property
    def _samples(self) -> pd.DataFrame:
        return derive.sample_table(self.sample_moments, self.ledger_base)

    # Shallow copies: pandas copies on write, so that a caller's change never reaches the frozen frames.
    @property
    def layers(self) -> pd.DataFrame:
        """A row per layer and site; only layers that fired, in order of first execution."""
        return self._layers.copy(deep=False)

    @property
    def features(self) -> pd.DataFrame:
        """A row per layer, site and feature."""
        return self._features.copy(deep=False)

    @property
    def samples(self) -> pd.DataFrame:
        """A row per layer, site and kept sample."""
        return self._samples.copy(deep=False)

    @property
    def ledger(self) -> pd.DataFrame:
        """A row per layer in order of definition, fired or not."""
        return derive.ledger_table(self.ledger_base)

    def values(self, layer: str, site: str) -> NDArray[np.float64]:
        """The kept raw rows of one layer and site, in order of hash.

        Returns:
            float64, shape (rows, features).

        Raises:
            NoSamplesError: nothing is kept under these names.
        """
        groups = self._row_groups
        if (layer, site) not in groups:
            raise NoSamplesError(self._nothing_kept(layer, site))
        return np.stack(list(self.rows["values"].iloc[groups[layer, site]])).astype(np.float64)

    @cached_property
    def _row_groups(self) -> dict[Any, Any]:
        return dict(self.rows.groupby(list(build.KEY), sort=False).indices)

    def _nothing_kept(self, layer: str, site: str) -> str:
        known = set(self.ledger_base["layer"])
        if site not in ("input", "output"):
            return f"site {site!r} is unknown; ask for 'input' or 'output'"
        if layer not in known:
            return f"layer {layer!r} is not in this recording; its ledger names {len(known)} layers"
        status = self.ledger_base.set_index("layer").loc[layer, "status"]
        if status != "fired":
            return f"layer {layer!r} has no values: {status}; see the ledger's reason"
        return f"no raw rows of {layer!r} {site} are kept; probe with values > 0 and give the layer data"

    def annotate(self, facts: Mapping[str, Any]) -> Tables:
        """The same tables with these facts in ``meta``."""
        return replace(self, meta={**self.meta, **facts})


def build_tables(records: Sequence[LayerRecord], meta: Mapping[str, Any], part: str) -> Tables:
    """Build the frames from what a probe measured."""
    frames = {
        "ledger_base": build.ledger_frame(records),
        "sites": build.site_frame(records, part),
        "feature_moments": build.feature_frame(records),
        "sample_moments": build.sample_frame(records, part),
        "rows": build.row_frame(records, part),
        "labels": build.label_frame(records, part),
    }
    return Tables(**{name: based(name, frame) for name, frame in frames.items()}, meta=dict(meta))
