"""The tables of a recording beside layers, features, samples and ledger: of what not every model has."""

from __future__ import annotations

import pandas as pd

from normprobe.tables.frames import Tables


class FurtherTables:
    """What `normprobe.Recording` has of these; its frames are those behind it."""

    _tables: Tables

    @property
    def parameters(self) -> pd.DataFrame:
        """A row per parameter of a layer: how large it, its gradients and its updates are.

        Measured by ``Probe(model, gradients=True)`` at each step of an optimizer that follows a measured
        forward; without that there are no rows.
        """
        return self._tables.parameters

    @property
    def experts(self) -> pd.DataFrame:
        """A row per layer of experts, site and expert: how many tokens it had, what it reads and gives.

        Experts that are modules of a list are here in any recording; those of which one weight holds all, as
        of Mixtral, where ``Probe(model, experts=True)`` measured them.
        """
        return self._tables.experts

    @property
    def expert_features(self) -> pd.DataFrame:
        """A row per layer of experts, site, expert and feature, of the experts in `experts`."""
        return self._tables.expert_features

    @property
    def labels(self) -> pd.DataFrame:
        """The text of kept samples, where the probe was given ``labels``: part, example, position, text."""
        return self._tables.labels
