"""One quantity, one home: every place that shows a shared quantity shows the same number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe.batchnorm import audit, channels, recalibrate, score
from normprobe.figures.data import depth_profile, layer_statistics
from normprobe.figures.plots import linear_by_role, outlier_map, running_statistics, samples_through_depth
from normprobe.findings import series
from normprobe.report.layer_summary import summarize
from normprobe.tables.measures.features import CONSTANT, finite_features
from normprobe.tables.measures.samples import sized
from normprobe.vocabulary import INPUT, OUTPUT

ROWS = 48


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A norm of rows and a Linear behind it, beside the stream."""

    def __init__(self, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.norm, self.proj = norm, nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.proj(self.norm(x))


def blocks(make: Callable[[], nn.Module], width: int = 12, count: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block(make(), width) for _ in range(count)]).eval()


def batch_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.BatchNorm1d(8)
    )
    for norm in (model[1], model[4]):
        norm.running_mean.copy_(normal(len(norm.running_mean), seed=1))
        norm.running_var.copy_(normal(len(norm.running_var), seed=2).abs() * 1e-5)
    return normprobe.record(model.eval(), normal(ROWS, 6))


def layer_norms() -> normprobe.Recording:
    scale = torch.ones(12)
    scale[3] = 60
    return normprobe.record(blocks(lambda: nn.LayerNorm(12)), normal(ROWS, 12) * scale)


def group_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU(), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(36, 3))
    return normprobe.record(model.eval(), normal(ROWS, 4, 3, 3))


def rms_norms() -> normprobe.Recording:
    return normprobe.record(blocks(lambda: nn.RMSNorm(12)), normal(4, 12, 12) + 1)


def one_sample() -> normprobe.Recording:
    return normprobe.record(blocks(lambda: nn.LayerNorm(12)), normal(1, 12))


def constant_features() -> normprobe.Recording:
    """Constant features of each sort: zero, of one value, of one value but for rounding; and a small one."""
    data = normal(ROWS, 12)
    data[:, 0], data[:, 1] = 0, 3
    data[:, 2] = 1000 + 1e-4 * data[:, 2]
    data[:, 5] *= 5e-4
    model = nn.Sequential(nn.BatchNorm1d(12), *blocks(lambda: nn.LayerNorm(12)))
    model[0].running_var.fill_(2.0)
    return normprobe.record(model.eval(), data)


def nonfinite() -> normprobe.Recording:
    data = normal(ROWS, 12)
    data[5, 3], data[:, 7] = torch.inf, torch.nan
    return normprobe.record(
        nn.Sequential(nn.BatchNorm1d(12), nn.LayerNorm(12), nn.Linear(12, 2)).eval(), data
    )


def padded() -> normprobe.Recording:
    model = blocks(lambda: nn.LayerNorm(12))
    mask = torch.arange(9)[None, :] < torch.tensor([9, 4, 7, 2])[:, None]
    with normprobe.Probe(model, mask=lambda *_: mask) as probe, torch.no_grad():
        model(normal(4, 9, 12))
    return probe.recording


def count_one() -> normprobe.Recording:
    model = nn.Sequential(nn.BatchNorm1d(12), nn.LayerNorm(12), nn.Linear(12, 2))
    return normprobe.record(model.eval(), normal(1, 12))


def merged() -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(12), *blocks(lambda: nn.LayerNorm(12))).eval()
    parts = []
    for part in range(3):
        with normprobe.Probe(model, part=str(part)) as probe, torch.no_grad():
            model(normal(ROWS, 12, seed=part) * (part + 1))
        parts.append(probe.recording)
    return normprobe.merge(*parts)


RECORDINGS = (
    batch_norms, layer_norms, group_norms, rms_norms, one_sample, constant_features, nonfinite, padded,
    count_one, merged,
)  # fmt: skip


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda make: make.__name__)
def recording(request: pytest.FixtureRequest) -> normprobe.Recording:
    return request.param()


def shown(recording: normprobe.Recording, evidence: str) -> pd.Series:
    """What findings hold against their thresholds and show as a series, by layer."""
    found = series(recording.tables, evidence)
    return found.set_index("layer")["value"]


def equal(one: pd.Series, other: pd.Series) -> None:
    """Equal by layer; what the one does not have is undefined in the other."""
    layers = one.index.union(other.index)
    np.testing.assert_allclose(
        one.reindex(layers).astype(float), other.reindex(layers).astype(float), rtol=1e-12, equal_nan=True
    )


def findings_of(recording: normprobe.Recording, check: str) -> pd.DataFrame:
    found = recording.findings()
    return found[found["check"] == check].set_index("layer")


def test_running_statistics(recording: normprobe.Recording) -> None:
    if "batch_norm" not in set(recording.ledger["kind"]):
        assert shown(recording, "input:running_shift").isna().all()
        assert not running_statistics.supported(recording.tables)
        return
    table = audit(recording).set_index("layer")
    equal(table["shift"], shown(recording, "input:running_shift"))
    equal(np.exp(table["log_variance_ratio"].abs()), shown(recording, "input:running_ratio"))
    for layer, row in findings_of(recording, "stale_running_statistics").iterrows():
        shift, factor = table.at[layer, "shift"], np.exp(abs(table.at[layer, "log_variance_ratio"]))
        assert row["value"] == pytest.approx(shift if "shift" in row["evidence"] else factor)
    if not running_statistics.supported(recording.tables):
        return
    figure = running_statistics.summarize(recording.tables)
    features = finite_features(recording.tables).query("site == 'input'")
    every = channels(recording).merge(features[["layer", "feature", "constant"]], on=["layer", "feature"])
    varying = every[~every["constant"]].groupby("layer")
    for rows, column in ((figure.means, "shift"), (np.log(figure.variances), "log_variance_ratio")):
        equal(rows[0.5].set_axis(list(figure.depth.layers)), varying[column].median())
    assert figure.channels - figure.constant == (~every["constant"]).sum()


def test_recalibration_moves_by_the_shift_that_the_audit_finds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    model[0].running_var.fill_(1e-6)
    before = audit(normprobe.record(model, normal(ROWS, 6) * 1e-3 + 2e-3))
    moved = recalibrate(model, [normal(ROWS, 6) * 1e-3 + 2e-3])
    for name in ("shift", "log_variance_ratio"):
        np.testing.assert_allclose(moved[name], before[name], rtol=1e-5)


def test_constant_features(recording: normprobe.Recording) -> None:
    features = recording.features[recording.features["count"] > 0]
    by_hand = features["variance"] <= CONSTANT * (features["variance"] + features["mean"] ** 2)
    groups = by_hand.groupby([features["layer"], features["site"]])
    for site in (INPUT, OUTPUT):
        equal(shown(recording, f"{site}:constant_features"), groups.mean().xs(site, level="site"))
    profile = depth_profile.summarize(recording.tables).site(INPUT).set_index("layer")
    several = features["count"] > 1
    count = (by_hand & several).groupby([features["layer"], features["site"]]).sum().xs(INPUT, level="site")
    defined = several.groupby(features["layer"]).any().reindex(profile.index)
    equal(profile["constant"], count.reindex(profile.index).where(defined))
    for layer, row in findings_of(recording, "constant_features").iterrows():
        assert row["value"] <= groups.mean()[layer, row["site"]]


def test_a_small_feature_is_not_constant_and_one_that_only_rounds_is() -> None:
    constant = finite_features(constant_features().tables).query("layer == '0' and site == 'input'")[
        "constant"
    ]
    assert list(np.flatnonzero(constant)) == [0, 1, 2]


def test_the_worst_feature(recording: normprobe.Recording) -> None:
    tables, summary = recording.tables, summarize(recording.tables)
    ratio, largest = shown(recording, "input:feature_ratio"), shown(recording, "input:abs_max")
    equal(summary["ratio"], ratio)
    equal(summary["max_in"], largest)
    equal(summary["max_out"], shown(recording, "output:abs_max"))
    peaks = layer_statistics.peaks(tables, list(summary.index))
    equal(peaks["ratio"], ratio)
    equal(peaks["worst"], largest)
    equal(peaks["feature"], summary["peak"])
    if outlier_map.supported(tables):
        drawn = outlier_map.summarize(tables).ratios.max(axis=1)
        equal(drawn, ratio.reindex(drawn.index))
    if linear_by_role.supported(tables):
        drawn = linear_by_role.summarize(tables).lines["ratio"]
        equal(drawn, ratio.reindex(drawn.index))
    for layer, row in findings_of(recording, "outlier_features").iterrows():
        assert row["value"] == ratio[layer]
        assert row["feature"] == summary.at[layer, "peak"]


def test_the_spread_of_samples(recording: normprobe.Recording) -> None:
    tables, summary = recording.tables, summarize(recording.tables)
    quantiles = layer_statistics.sample_quantiles(tables, list(summary.index))
    for site, column in ((INPUT, "spread_in"), (OUTPUT, "spread_out")):
        here = quantiles.xs(site, level="site")
        equal(here["ratio"], summary[column])
        equal(here["p50"], shown(recording, f"{site}:sample_variance"))
        variance = tables.samples.query("site == @site and variance > 0").groupby("layer")["variance"]
        spread = (variance.quantile(0.95) / variance.quantile(0.05)).where(variance.size() > 1)
        equal(spread, summary[column])


def test_the_size_of_samples(recording: normprobe.Recording) -> None:
    samples = sized(recording.tables.samples).query("site == 'input'").set_index("layer")
    np.testing.assert_allclose(samples["rms"] ** 2, samples["mean"] ** 2 + samples["variance"])
    rms = samples["rms"].groupby(level="layer")
    equal(shown(recording, "input:sample_ratio"), (rms.max() / rms.median()).where(rms.median() > 0))
    if samples_through_depth.supported(recording.tables):
        drawn = samples_through_depth.summarize(recording.tables)
        equal(drawn.bands[0.5].set_axis(list(drawn.depth.layers)), rms.median().reindex(drawn.depth.layers))
    for layer, row in findings_of(recording, "outlier_sample").iterrows():
        assert row["value"] >= shown(recording, "input:sample_ratio")[layer]


def test_what_varies_over_samples(recording: normprobe.Recording) -> None:
    layers = recording.layers.query("site == 'output'").set_index("layer")
    square = layers["variance"] + layers["mean"] ** 2
    spread = (layers["within_feature_variance"] / square.where(square > 0)).mask(square == 0, 0.0)
    equal(shown(recording, "output:spread"), spread)
    if "batch_norm" not in set(recording.ledger["kind"]):
        return
    moved = audit(recording)["hellinger"]
    heads = layers[layers["kind"] == "linear"]
    if moved.notna().any() and len(heads):
        head = heads["depth"].idxmax()
        assert score(recording) == pytest.approx(max(moved.iloc[-1], 1 - spread[head]))


def test_zeros(recording: normprobe.Recording) -> None:
    features = recording.features[recording.features["count"] > 0]
    zero = (features["zero_fraction"] == 1).groupby([features["layer"], features["site"]]).mean()
    equal(shown(recording, "input:zero_features"), zero.xs(INPUT, level="site"))
    equal(shown(recording, "output:zero_fraction"), summarize(recording.tables)["zeros"])


def test_a_single_value_has_a_shift_and_no_variance() -> None:
    table = channels(count_one())
    assert table["shift"].notna().all()
    assert table[["log_variance_ratio", "kl", "hellinger"]].isna().all(axis=None)
    assert np.isnan(audit(count_one())["shift"].item())
