"""Why running statistics are stale: updates, momentum, dtype, or the scale of the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from normprobe.formatting import format_count, format_number, format_range
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.layers import first_to_read, inputs_and_outputs
from normprobe.tables.measures.running_statistics import running_measures
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

RECALIBRATE = (
    "recalibrate with training data: normprobe.batchnorm.recalibrate(model, batches), or --recalibrate new.pt"
)
"""The two calls that replace running statistics, as the end of a sentence."""

_SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Distance of neighbouring numbers from 1 to 2."""

_LAST_BATCH = 0.9
"""A momentum from which on little but the last batch is kept: other frameworks mean 1 - torch's."""

_HARDLY = 1e-3
"""A momentum below which thousands of batches are needed."""

_INITIAL = 0.1
"""A share of the initial value from which on the batches were too few."""

_EXPLAINED = 4.0
"""Within this factor of the running variance lies what the initial value and the observed variance make."""


class _Scale(NamedTuple):
    """A usual mistake in scaling images.

    Attributes:
        factor: the standard deviation of one way of preparing them ÷ that of the other.
        large: words for the one where the other was trained on.
        small: words for the reverse.
        whole: whether the one has the values 0 to 255 of bytes.
        near: factor within which it is recognized.
        alike: largest median deviation of the channels' log variance factor: a scale moves all alike.
    """

    factor: float
    large: str
    small: str
    whole: bool = True
    near: float = 1.3
    alike: float = 0.5


# The mean of ImageNet's three standard deviations, 0.229, 0.224 and 0.225.
_IMAGENET = 0.226
_NORMALIZED = "normalized with ImageNet's mean and deviation"
_SCALES = (
    _Scale(
        255.0, "0..255 where 0..1 was trained on", "0..1 where 0..255 was trained on, or divided by 255 twice"
    ),
    _Scale(127.5, "0..255 where -1..1 was trained on", "-1..1 where 0..255 was trained on"),
    _Scale(
        255 * _IMAGENET,
        f"0..255 where images {_NORMALIZED} were trained on",
        f"{_NORMALIZED} where 0..255 was trained on",
    ),
    # Closer: a factor of 4 is nothing that ImageNet's deviation makes.
    _Scale(1 / _IMAGENET, f"{_NORMALIZED} twice", f"not {_NORMALIZED}", whole=False, near=1.08, alike=0.15),
)


class StaleCause(NamedTuple):
    """What explains stale statistics.

    Attributes:
        words: a sentence that follows the message.
        advice: one sentence of what to do about it.
    """

    words: str
    advice: str


def stale_cause(tables: Tables, layer: str) -> StaleCause | None:
    """What of a batch norm explains that its running statistics are off, or None."""
    row: Any = tables.ledger.set_index("layer").loc[layer]
    momentum = float(row["momentum"]) if pd.notna(row.get("momentum")) else np.nan
    if momentum == 0:
        return StaleCause(
            "Its momentum is 0, with which they never move.",
            f"Set a momentum such as 0.1 and train on, or {RECALIBRATE}.",
        )
    if momentum >= _LAST_BATCH:
        return StaleCause(
            f"Its momentum is {momentum:g}, with which they keep little but the last batch.",
            f"Set momentum to {1 - momentum:.4g} (torch's is the share of the new batch; other frameworks "
            f"mean the share of the old), and {RECALIBRATE}.",
        )
    dtype = str(row.get("running_dtype") or "")
    if dtype in _SPACING and _stalls(tables, layer, momentum, _SPACING[dtype]):
        return StaleCause(
            f"They are kept in {dtype}, which rounds away steps of momentum ({momentum:g}) times the "
            "difference: they stall.",
            f"Keep the running statistics of batch norms in float32, and {RECALIBRATE}.",
        )
    return _too_few_updates(tables, layer) or _too_slow(momentum) or _scaled_inputs(tables, layer)


class Collected(NamedTuple):
    """What running statistics were collected from.

    Attributes:
        batches: how many batches; 0 where that is not known.
        momentum: share of a batch; NaN where all batches count alike, or it is not known.
        share: of the initial value in the running statistics, 0 to 1; NaN where it is not known.
    """

    batches: int
    momentum: float
    share: float

    @property
    def words(self) -> str:
        """A sentence that says so, or ""."""
        if not self.batches:
            return ""
        known = f"They were collected over {format_count(self.batches, 'batch')}"
        if self.share >= 0.01:
            known += f" with momentum {self.momentum:g}: {self.share:.0%} is still the initial value"
        return f"{known}."


def collected(tables: Tables, layer: str) -> Collected:
    """Of how many batches a batch norm's running statistics are.

    Each update keeps 1 - momentum of what was there: (1 - momentum)^batches of the initial 0 and 1 is left.
    A count of 0 is that of checkpoints whose writers did not count; those of momentum None average.
    """
    row: Any = tables.ledger.set_index("layer").loc[layer]
    batches = row.get("num_batches_tracked")
    number = 0 if batches is None or pd.isna(batches) else int(batches)
    momentum = float(row["momentum"]) if pd.notna(row.get("momentum")) else np.nan
    share = (1 - momentum) ** number if number and 0 <= momentum <= 1 else np.nan
    return Collected(number, momentum, share)


def _too_few_updates(tables: Tables, layer: str) -> StaleCause | None:
    found = collected(tables, layer)
    if not found.share > _INITIAL or not _made_of_initial_value(tables, layer, found.share):
        return None
    # The message says how many batches and what share.
    return StaleCause("", f"So few updates do not suffice: train on, or {RECALIBRATE}.")


def _made_of_initial_value(tables: Tables, layer: str, share: float) -> bool:
    """Whether the running variance is about ``share`` of 1 and the rest of what is observed."""
    rows = rows_at(tables, "features", layer, INPUT)
    made = share + (1 - share) * rows["seen_variance"]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.log((made / rows["running_var"]).to_numpy(dtype="float64"))
    off = off[np.isfinite(off)]
    return bool(len(off)) and abs(float(np.median(off))) <= np.log(_EXPLAINED)


def _too_slow(momentum: float) -> StaleCause | None:
    if not momentum < _HARDLY:
        return None
    return StaleCause(
        f"Its momentum is {format_number(momentum)}, with which they take thousands of batches to move.",
        f"Raise the momentum and train on, or {RECALIBRATE}.",
    )


def _scaled_inputs(tables: Tables, layer: str) -> StaleCause | None:
    """A usual mistake in scaling images, if it makes the factor between observed and running variance.

    What a Linear or convolution makes of inputs that are s times too large has s² times the variance in
    every channel. Of the first batch norm alone is that so, and of variances without eps: data divided by 255
    twice have variances far below eps, which would hide how far.
    """
    measures = running_measures(tables).droplevel("site")
    depth = tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
    # Of statistics that hold much of the initial value the factor is not that of the data.
    if depth.reindex(measures.index).idxmin() != layer or collected(tables, layer).share > _INITIAL:
        return None
    row: Any = measures.loc[layer]
    read = _range(tables)
    off = float(row["bare_log_ratio"]) / 2
    for scale in _SCALES:
        near = abs(abs(off) - np.log(scale.factor)) <= np.log(scale.near)
        fits = read is None or not scale.whole or _of_bytes(read, large=off > 0)
        if near and fits and row["bare_noise"] <= scale.alike:
            return _scale_cause(scale, read, large=off > 0)
    return None


def _scale_cause(scale: _Scale, read: tuple[float, float] | None, *, large: bool) -> StaleCause:
    what = "The inputs" if read is None else f"The inputs, which range over {format_range(*read)},"
    much = f"{format_number(scale.factor)} times too {'large' if large else 'small'}"
    return StaleCause(
        f"{what} look {much}: {scale.large if large else scale.small}?",
        "Prepare the inputs as for training (range, mean and deviation); do not recalibrate before.",
    )


def _range(tables: Tables) -> tuple[float, float] | None:
    """Smallest and largest value of the data, where the first layer measured is a Linear, which reads them.

    A batch norm mostly stands behind a convolution, which is not measured.
    """
    layers = inputs_and_outputs(tables)
    first = first_to_read(layers)
    row = None if first is None else row_of(layers, first, INPUT)
    return None if row is None or row["kind"] != "linear" else (row["min"], row["max"])


def _of_bytes(read: tuple[float, float], *, large: bool) -> bool:
    """Whether data of this range may be bytes, or, where they are too small, are none."""
    return read[0] >= 0 and 8 < read[1] <= 255 if large else max(map(abs, read)) <= 8


def _stalls(tables: Tables, layer: str, momentum: float, spacing: float) -> bool:
    """Whether in half of the channels the next update of mean or variance is rounded away."""
    rows = rows_at(tables, "features", layer, INPUT)
    for running, seen in (("running_mean", "seen_mean"), ("running_var", "seen_variance")):
        held = rows[running].abs().to_numpy(dtype="float64")
        step = momentum * (rows[seen] - rows[running]).abs().to_numpy(dtype="float64")
        with np.errstate(divide="ignore"):
            # Half the distance to the next number: a smaller step is rounded away.
            half = 2.0 ** np.floor(np.log2(held)) * spacing / 2
        # An update that is rounded away although it is more than float32 would round.
        if np.mean((step <= half) & (step > half * 2.0**-16)) >= 0.5:
            return True
    return False
