"""The public tables of experts, derived from the base frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import Moments
from normprobe.tables.columns.dtypes import public_moments
from normprobe.tables.columns.experts import EXPERT_FEATURES, EXPERTS
from normprobe.tables.columns.tables import based, missing, shaped
from normprobe.tables.derive import moments_of, pooled, starts
from normprobe.tables.expert_frames import EXPERT_KEY, ExpertFrames
from normprobe.vocabulary import INPUT


def together(own: ExpertFrames, listed: ExpertFrames) -> ExpertFrames:
    """Experts of one weight and those of lists."""
    both = [frames for frames in (own, listed) if not frames.places.empty]
    if len(both) < 2:
        return both[0] if both else own
    places, moments = (pd.concat(frames, ignore_index=True) for frames in zip(*both, strict=True))
    return ExpertFrames(based("expert_places", places), based("expert_moments", moments))


def expert_table(frames: ExpertFrames, ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per module of experts, site and expert."""
    places = frames.places
    if places.empty:
        return shaped(_empty(EXPERTS), EXPERTS)
    total, _ = pooled(moments_of(frames.moments), places["n_features"].to_numpy())
    # Routing weights are held at the input alone, and shown at every site.
    read = places[places["site"] == INPUT]
    weight = dict(zip(_experts(read), _over(read["weight_sum"], read["weighted"]), strict=True))
    routed = places.groupby(["layer", "site"], sort=False)["rows"].transform("sum")
    spread = {layer: _entropy(of["rows"].to_numpy()) for layer, of in read.groupby("layer", sort=False)}
    routers = _routers(ledger)
    frame = places.assign(
        router=[routers.get(layer, "") for layer in places["layer"]],
        tokens=places["rows"],
        share=_over(places["rows"], routed),
        weight=[weight[key] for key in _experts(places)],
        mean=_known(total, total.mean),
        variance=total.variance,
        min=_known(total, total.minimum),
        max=_known(total, total.maximum),
        abs_mean=total.abs_mean,
        nonfinite=total.nonfinite,
        entropy=[spread[layer][0] for layer in places["layer"]],
        entropy_max=[spread[layer][1] for layer in places["layer"]],
    )
    return shaped(frame, EXPERTS)


def expert_feature_table(frames: ExpertFrames) -> pd.DataFrame:
    """A row per module of experts, site, expert and feature."""
    places = frames.places
    widths, moments = places["n_features"].to_numpy(np.int64), moments_of(frames.moments)
    place = np.repeat(np.arange(len(places)), widths)
    # Through `array`, which keeps the dtype of texts; of numpy's they would be objects.
    columns: dict[str, Any] = {name: places[name].array.take(place) for name in EXPERT_KEY}
    columns["feature"] = np.arange(len(place)) - np.repeat(starts(widths)[:-1], widths)
    columns |= {public.name: public.derive(moments) for public in public_moments()}
    return shaped(pd.DataFrame(columns), EXPERT_FEATURES)


def _experts(places: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(zip(places["layer"], places["expert"], strict=True))


def _over(total: pd.Series, count: pd.Series) -> NDArray[np.float64]:
    """One ÷ the other, NaN where that is 0."""
    divisor = count.to_numpy(np.float64)
    return total.to_numpy(np.float64) / np.where(divisor > 0, divisor, np.nan)


def _known(total: Moments, values: NDArray[Any]) -> NDArray[np.float64]:
    # Moments of no value have a mean of 0 and infinite extremes.
    return np.where(total.count > 0, values, np.nan)


def _entropy(rows: NDArray[np.int64]) -> tuple[float, float]:
    """The entropy, in nats, of the shares of experts among the rows, and that of equal shares."""
    # Experts without rows add nothing to it, as 0 ln 0 is 0.
    share = rows[rows > 0] / max(int(rows.sum()), 1)
    # 0.0, not -0.0, where one expert has all.
    return (float(abs((share * np.log(share)).sum())) if len(share) else np.nan), float(np.log(len(rows)))


def _routers(ledger: pd.DataFrame) -> dict[str, str]:
    """The layer that routes, by the module of experts that it routes for."""
    routing = ledger[ledger["router_of"] != ""]
    named = zip(routing["layer"], routing["router_of"], strict=True)
    return {holder: str(layer) for layer, holders in named for holder in str(holders).split("; ")}


def _empty(columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame({name: missing(dtype, 0) for name, (dtype, _) in columns.items()})
