"""The words of the depth profile: caption, one sentence, and the numbers of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.wording import format_count, format_number, plural

if TYPE_CHECKING:
    from normprobe.figures.profile import Profile


def caption(profile: Profile) -> str:
    """Return what to look at, with the numbers filled in."""
    runs = ["Blue, hollow: before the norm; orange, filled: after it, its own scale and shift included.", _top(profile)]
    if profile.sites["ratio"].notna().any() or profile.sites["spread"].notna().any():
        runs.append(_middle(profile))
    else:
        runs.append(f"1 {profile.unit}: variances across {plural(profile.unit)} are undefined.")
    return " ".join([*runs, _bottom(profile), *_remarks(profile)])


def aria_label(profile: Profile) -> str:
    """Return one sentence for those who do not see the figure."""
    medians = {site: profile.site(site)["p50"] for site in ("input", "output")}
    ranges = [
        f"{word} it {format_number(values.min())} to {format_number(values.max())}"
        for word, values in (("before", medians["input"]), ("after", medians["output"]))
    ]
    return (
        f"Depth profile of {format_count(len(profile.depth.layers), 'norm')}: median variance of one {profile.unit} "
        f"{' and '.join(ranges)}; largest |value| before a norm {format_number(profile.peaks['worst'].max())}."
    )


def numbers(profile: Profile, column: int) -> str:
    """Return the numbers of one layer, as hovering shows them."""
    before, after = profile.site("input").loc[column], profile.site("output").loc[column]
    peak = profile.peaks.loc[column]
    pairs = {"median variance": "p50", f"{plural(profile.unit)} p95 ÷ p5": "ratio", "features p95 ÷ p5": "spread"}
    lines = [profile.depth.layers[column]]
    lines += [f"{word}: {format_number(before[key])} → {format_number(after[key])}" for word, key in pairs.items()]
    if pd.notna(peak["feature"]):
        worst, typical = format_number(peak["worst"]), format_number(peak["typical"])
        lines.append(f"largest |value|: {worst} in feature {int(peak['feature'])}; median feature {typical}")
    broken = int(before["nonfinite"] or 0), int(after["nonfinite"] or 0)
    if any(broken):
        lines.append(f"NaN or Inf: {format_count(broken[0])} → {format_count(broken[1])}")
    return "\n".join(lines)


def _top(profile: Profile) -> str:
    """Say whether the stream grows and the norm brings it back."""
    before, after = profile.site("input")["p50"].dropna(), profile.site("output")["p50"].dropna()
    text = "**Top:** does the stream grow with depth, and does the norm bring it back?"
    if len(before) and len(after):
        text += (
            f" The median goes from {format_number(before.iloc[0])} at the first norm to "
            f"{format_number(before.iloc[-1])} at the last; after the norm it lies between "
            f"{format_number(after.min())} and {format_number(after.max())}."
        )
    crosses = (profile.sites["pooled"] > 5 * profile.sites["p50"]).sum()
    if crosses:
        text += f" A × far above its circle means a few {plural(profile.unit)} hold nearly all of the variance."
    return text


def _middle(profile: Profile) -> str:
    """Say what the two charts of ratios mean, with their medians."""
    medians = profile.sites.groupby("site")[["ratio", "spread", "scaled"]].median()
    tokens = _change(medians, "ratio", plural(profile.unit))
    features = _change(medians, "spread", "features")
    scale = medians["scaled"].get("output", float("nan"))
    if features and abs(scale / medians["spread"]["output"] - 1) > 0.05:
        features += f" ({format_number(scale)} with the layer's own scale, the faint ticks)"
    facts = "; ".join(fact for fact in (tokens, features) if fact)
    return (
        "**Middle:** 1 means all equal; LayerNorm and RMSNorm equalise "
        f"{plural(profile.unit)}, BatchNorm features; what stays high is what the norm leaves or its scale puts back"
        + (f". In the median norm {facts}." if facts else ".")
    )


def _change(medians: pd.DataFrame, column: str, word: str) -> str:
    """Return "tokens 2.3 → 1.9", or nothing where it is undefined."""
    before, after = (medians[column].get(site, float("nan")) for site in ("input", "output"))
    return f"{word} {format_number(before)} → {format_number(after)}" if before == before and after == after else ""


def _bottom(profile: Profile) -> str:
    """Say which feature is worst."""
    worst = profile.peaks["worst"]
    text = "**Bottom:** a long bar is an outlier feature"
    if not (worst > 0).any():
        return f"{text}."
    column = int(worst.idxmax())
    peak = profile.peaks.loc[column]
    ratio = peak["worst"] / peak["typical"] if peak["typical"] > 0 else float("nan")
    return (
        f"{text}; the longest reach is {format_number(peak['worst'])} in feature {int(peak['feature'])} of "
        f"{profile.depth.layers[column] or 'the model'}"
        + (f", {format_number(ratio)} × the median feature." if ratio == ratio else ".")
    )


def _remarks(profile: Profile) -> list[str]:
    """Say what was left out or is undefined."""
    remarks = []
    constant = int(profile.sites.loc[profile.sites["site"] == "input", "constant"].fillna(0).sum())
    flat = int(profile.sites["flat"].fillna(0).sum())
    broken = profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "layer"].nunique()
    if constant:
        remarks.append(f"{format_count(constant, 'feature')} without variance before a norm left out of the ratios.")
    if flat:
        remarks.append(f"{format_count(flat, profile.unit)} without variance left out of the ratios.")
    if profile.by_feature:
        norms = format_count(len(profile.by_feature), "norm")
        remarks.append(f"{norms} of one feature: the variance shown is that of the feature over {plural(profile.unit)}.")
    if broken:
        remarks.append(f"{format_count(broken, 'norm')} met NaN or Inf (× at the foot); statistics are over finite values.")
    return remarks
