"""What a recording shows of distributions: quantiles, histograms, and how formats of few bits fit."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import names_checked
from normprobe.tables.frames import Tables
from normprobe.tables.unmeasured import check_measured


class RecordedDistributions:
    """The verbs of a recording that read how values are distributed."""

    _tables: Tables

    @property
    def quantiles(self) -> pd.DataFrame:
        """A row per layer and site: p0.1 to p99.9 of all finite values, and how far off they may be.

        Counted by ``Probe(model, quantiles=True)``, of every value and not of kept rows; without that there
        are no rows. A quantile is right to the width of a bin, of which there are eight an octave: ``bound``.
        """
        return self._tables.quantiles

    def histogram(self, layer: str, site: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """How many values of one layer and site lie between edges, as `numpy.histogram` gives them.

        Of all finite values, where ``Probe(model, quantiles=True)`` counted them: eight bins an octave, from
        the first that holds a value to the last, so that narrow ones lie around 0. Zeros are in the bin that
        begins at 0. `normprobe.histograms` has bins of one width, of kept rows.

        >>> counts, edges = recording.histogram("encoder.layer.0.output.dense", "output")
        >>> plt.stairs(counts, edges)

        Args:
            layer: qualified name.
            site: "input", "output", or a further site that was measured.

        Returns:
            Counts, shape (bins,), and ascending edges, shape (bins + 1,).

        Raises:
            NoSamplesError: nothing is counted under these names.
        """
        return self._tables.histogram(layer, site)

    @names_checked
    def fit(
        self,
        format: Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "int8"],  # noqa: A002
        *,
        by: Literal["layer", "feature"] = "layer",
    ) -> pd.DataFrame:
        """How what layers read and write fits a format of few bits: room, underflow, scales, noise.

        >>> recording.fit("fp8_e4m3").nsmallest(5, "snr_db")

        What rests on the largest values is exact. Shares of small values take ``Probe(quantiles=True)`` and
        are missing without. Noise is estimated, in dB: from the counts where there are some, within
        ``snr_error_db`` of a cast; else from the mean and variance of each feature, taking it for normal, in
        tests within 1 dB where it is and 2 dB where its tails are heavy; that of blocks by rounding the kept
        rows, as good as these are a sample.

        Args:
            format: "mxfp8" is blocks of 32 E4M3 numbers under a power of two each (OCP MX 1.0), "nvfp4"
                blocks of 16 E2M1 numbers under an E4M3 scale each, "int8" symmetric.
            by: "layer" for a row per layer and site, "feature" for a row per feature.

        Returns:
            The page of columns says what each column means.

        Raises:
            NormprobeError: there is no such format, or ``by`` is neither.
            NoSamplesError: nothing was measured.
        """
        from normprobe.tables.number_formats.fit import fit_table  # what it needs is needed here alone

        check_measured(self._tables)
        return fit_table(self._tables, format, by)
