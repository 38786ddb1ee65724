"""What the figures draw, against numbers computed from the activations themselves."""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normprobe import figures
from normprobe.figures.data import layer_statistics
from normprobe.figures.data.depth_profile import summarize
from normprobe.figures.drawing.palette import AFTER, BEFORE
from normprobe.figures.plots import linear_by_role, outlier_map, running_statistics, samples_through_depth
from tests.helpers.figure_recordings import every_figure, images, norm_names, normal, record, stack

X = normal(6, 7, 16)


@pytest.fixture(scope="module")
def deep():
    return record(stack(6), X)


@pytest.fixture(scope="module")
def cnn():
    return record(images(), normal(16, 1, 6, 6))


@pytest.fixture(scope="module")
def activations():
    """Input and output of each norm of the deep model, by name, as float64 (samples, features)."""
    model, seen = stack(6).eval(), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_hook(
                lambda m, args, out, name=name: seen.update(
                    {name: [t.detach().double().reshape(-1, 16).numpy() for t in (args[0], out)]}
                )
            )
    with torch.no_grad():
        model(X)
    return seen


def test_what_each_recording_supports(deep, cnn):
    assert figures.available(deep) == [
        "depth_profile",
        "outlier_map",
        "samples_through_depth",
        "linear_by_role",
    ]
    assert figures.available(cnn.tables) == ["depth_profile", "samples_through_depth", "running_statistics"]
    assert figures.available(record(stack(2), X)) == []


@pytest.mark.parametrize(
    ("draw", "charts"),
    [
        (figures.depth_profile, 4),
        (figures.outlier_map, 1),
        (figures.samples_through_depth, 1),
        (figures.linear_by_role, 2),
        (lambda tables, ax=None: figures.norm_panel(tables, "norm", ax=ax), 6),
    ],
)
def test_each_function_draws_on_new_axes_or_on_the_callers(deep, draw, charts):
    new = np.ravel(draw(deep))
    assert len(new) == charts
    assert all(isinstance(ax, Axes) for ax in new)
    mine = Figure(figsize=(8, 8)).subplots(charts, squeeze=False)
    given = draw(deep.tables, ax=mine if charts > 1 else mine[0, 0])
    assert list(np.ravel(given)) == list(mine.ravel())
    with pytest.raises(ValueError, match=f"has {charts} charts, but `ax` holds 7 axes"):
        draw(deep, ax=Figure().subplots(7))


def test_running_statistics_draws_two_charts(cnn):
    assert [ax.get_title(loc="left") for ax in figures.running_statistics(cnn)] == [
        "Mean: (observed − running) ÷ running standard deviation",
        "Variance: observed ÷ running",
    ]


def test_no_setting_changes_and_no_figure_stays_open(deep):
    mpl.rcParams["font.size"] = 13.0
    try:
        before = dict(mpl.rcParams)
        every_figure(deep)
        assert dict(mpl.rcParams) == before
        assert plt.get_fignums() == []
    finally:
        mpl.rcdefaults()


def test_the_profile_shows_medians_of_sample_variances(deep, activations):
    found = summarize(deep.tables)
    for index, site in enumerate(("input", "output")):
        variances = [activations[layer][index].var(axis=1) for layer in found.depth.layers]
        rows = found.site(site)
        np.testing.assert_allclose(rows["p50"], [np.median(v) for v in variances], rtol=1e-6)
        np.testing.assert_allclose(rows["p95"], [np.quantile(v, 0.95) for v in variances], rtol=1e-6)
        ratios = [np.quantile(v, 0.95) / np.quantile(v, 0.05) for v in variances]
        np.testing.assert_allclose(rows["ratio"], ratios, rtol=1e-5)


def test_the_features_after_the_norm_are_compared_without_its_scale(deep, activations):
    found, model = summarize(deep.tables), dict(stack(6).named_modules())
    for layer, before, after, with_scale in zip(
        found.depth.layers,
        found.site("input")["spread"],
        found.site("output")["spread"],
        found.site("output")["scaled"],
        strict=True,
    ):
        weight = model[layer].weight.detach().double().numpy()
        raw, out = (rows.var(axis=0) for rows in activations[layer])
        for shown, variances in ((before, raw), (after, out / weight**2), (with_scale, out)):
            expected = np.quantile(variances, 0.95) / np.quantile(variances, 0.05)
            assert shown == pytest.approx(expected, rel=1e-5)


def test_hollow_blue_is_before_and_filled_orange_after(deep):
    top = figures.depth_profile(deep)[0]
    markers = {line.get_markeredgecolor(): line for line in top.lines if line.get_marker() == "o"}
    assert markers[BEFORE].get_markerfacecolor() != BEFORE
    assert markers[AFTER].get_markerfacecolor() == AFTER


def test_the_largest_value_is_named(deep, activations):
    found = summarize(deep.tables)
    tops = {layer: np.abs(rows[0]).max(axis=0) for layer, rows in activations.items()}
    np.testing.assert_allclose(found.peaks["worst"], [tops[layer].max() for layer in found.depth.layers])
    np.testing.assert_allclose(found.peaks["typical"], [np.median(tops[name]) for name in found.depth.layers])
    layer = max(tops, key=lambda name: tops[name].max())
    texts = [text.get_text() for text in figures.depth_profile(deep)[3].texts]
    assert any(text.endswith(f"in feature {tops[layer].argmax()}") for text in texts)


def test_the_outlier_map_divides_by_the_median_feature():
    model = stack(5)
    with torch.no_grad():
        model.layers[1].up.bias[7] = 300.0
    found = outlier_map.summarize(record(model, X).tables)
    assert list(found.columns.index) == [7]
    assert found.columns.iloc[0] == 4  # the norms of blocks 2, 3, 4 and the final one
    assert found.ratios.loc["layers.0.norm"].median() == pytest.approx(1)
    rendered = figures.render(record(model, X), "outlier_map")
    assert (rendered.facts["outliers"], rendered.facts["norms"]) == (((7, 4),), 6)


def test_wide_layers_are_pooled_by_their_largest():
    model = stack(4, 1500)
    with torch.no_grad():
        model.layers[0].up.bias[1401] = 1e4
    recording = record(model, normal(2, 3, 1500))
    ax = figures.outlier_map(recording)
    assert ax.get_xlim()[1] == 750
    assert "each column the largest of 2 neighbours" in ax.get_xlabel()
    assert np.ma.getdata(ax.collections[0].get_array()).reshape(5, -1)[2, 700] > 300


def test_samples_are_followed_by_identity(activations):
    labels = [[f"word{example}.{position}" for position in range(7)] for example in range(6)]
    big = X.clone()
    big[4, 2] *= 400
    model = stack(6)
    recording = record(model, big, labels=lambda args, kwargs: labels)
    found = samples_through_depth.summarize(recording.tables)
    assert next(iter(found.extreme.values())) == "“word4.2” example 4, position 2"
    assert (found.over, found.first) == (1, 0)
    stated = samples_through_depth.plan(recording.tables).facts
    assert (stated["over"], stated["kept"]) == (1, 42)
    size = np.sqrt((activations["layers.0.norm"][0] ** 2).mean(axis=1))
    assert found.sizes["layers.0.norm"].min() == pytest.approx(size.min(), rel=1e-6)


def test_running_variance_is_compared_with_the_unbiased_one(cnn):
    found = running_statistics.summarize(cnn.tables)
    seen = torch.nn.functional.conv2d(normal(16, 1, 6, 6), images()[0].weight, images()[0].bias, padding=1)
    values = seen.detach().double().transpose(0, 1).reshape(8, -1).numpy()
    factors = (values.var(axis=1, ddof=1) + 1e-5) / (1 + 1e-5)  # eps of the layer
    assert np.log(found.variances[0.5].iloc[0]) == pytest.approx(np.median(np.log(factors)), rel=1e-5)
    assert found.means[0.5].iloc[0] == pytest.approx(np.median(values.mean(axis=1)), rel=1e-4)


def test_train_mode_is_said(cnn):
    model = images().train()
    with normprobe_probe(model) as probe:
        model(normal(16, 1, 6, 6))
    stated = figures.render(probe.recording, "running_statistics").facts
    assert (stated["trained"], stated["layers"]) == (5, 5)
    assert figures.render(cnn, "running_statistics").facts["trained"] == 0


def normprobe_probe(model):
    import normprobe

    return normprobe.Probe(model, part="t")


def test_linear_layers_that_read_the_same_tensor_share_a_line():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

        def forward(self, x):
            return self.query(x) * 0.5 + self.key(x)

    torch.manual_seed(0)
    recording = record(torch.nn.Sequential(*(Attention() for _ in range(3))), X)
    found = linear_by_role.summarize(recording.tables)
    assert found.joined == (("*.query", "*.key"),)
    left, right = figures.linear_by_role(recording)
    assert [text.get_text() for text in left.texts] == ["query", "key"]
    assert [text.get_text() for text in right.texts] == ["query, key"]
    layers = recording.layers.query("site == 'output'").set_index("layer")["variance"]
    np.testing.assert_allclose(
        found.lines["variance"].sort_index(), layers.sort_index().to_numpy(dtype=float)
    )


def test_the_panel_says_the_tables_mean_and_variance(deep):
    rows = deep.layers.query("layer == 'layers.2.norm' and site == 'input'").iloc[0]
    heading = figures.norm_panel(deep, "layers.2.norm")[0].get_title(loc="left")
    assert heading == f"Values before: mean {rows['mean']:.3g}, var {rows['variance']:.3g}".replace("-", "−")


def test_errors_say_what_there_is(deep):
    with pytest.raises(ValueError, match="no figure 'pie'; there are over_time, depth_profile"):
        figures.render(deep, "pie")
    with pytest.raises(ValueError, match="needs layer="):
        figures.render(deep, "norm_panel")
    with pytest.raises(ValueError, match=r"no norm 'layers.0.up' fired.*'layers.0.norm'"):
        figures.norm_panel(deep, "layers.0.up")
    with pytest.raises(ValueError, match="no BatchNorm"):
        figures.running_statistics(deep)
    with pytest.raises(ValueError, match="no normalization layer"):
        figures.depth_profile(record(torch.nn.Linear(16, 2), X))


def test_quantiles_of_nothing_are_missing(deep):
    empty = layer_statistics.quantiles(deep.samples.iloc[:0], (0.5,))
    assert empty.empty
    assert list(empty.columns) == [0.5]
    assert norm_names(deep)[-1] == "norm"


def test_a_notebook_shows_a_figure_without_pyplot_on_paper_of_its_own(deep):
    """IPython asks for `_repr_png_`; ink on nothing could not be read in a dark notebook."""
    figure = figures.depth_profile(deep)[0].figure
    picture = plt.imread(BytesIO(figure._repr_png_()))
    assert picture.shape[1] == 1060
    assert picture[0, 0] == pytest.approx([1, 1, 1, 1], abs=0.01)
    assert plt.get_fignums() == []


class Gated(torch.nn.Module):
    """Four blocks of a norm, a wide Linear and a square of what it writes, which the next Linear reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Linear(16, 16)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(16) for _ in range(4))
        self.up = torch.nn.ModuleList(torch.nn.Linear(16, 48) for _ in range(4))
        self.down = torch.nn.ModuleList(torch.nn.Linear(48, 16) for _ in range(4))

    def forward(self, x):
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(up(norm(x)) ** 2) / 100
        return x


def test_the_outlier_map_shows_what_linear_layers_read():
    model = Gated()
    with torch.no_grad():
        model.up[2].bias[37] = 30.0
    recording = record(model, X)
    found = outlier_map.summarize(recording.tables)
    assert found.clear
    (linear,) = found.linear
    # Of the four `up` none has such a feature, and no chart.
    assert list(linear.ratios.index) == [f"down.{block}" for block in range(4)]
    assert found.elsewhere == 0
    expected = recording.layers.query("site == 'input'").set_index("layer")["feature_ratio"]
    np.testing.assert_array_equal(linear.ratios.max(axis=1), expected[linear.ratios.index])
    rendered = figures.render(recording, "outlier_map")
    assert rendered.facts["linear"] == ((4, 48, ((37, 1),)),)
    said = "Of 4 Linear inputs of 48 features down.2 has the worst: **feature 37**, "
    assert said in rendered.caption
    top, bottom = rendered._figure.axes[:2]
    assert [text.get_text() for text in bottom.texts] == ["37"]
    cells = np.ma.getdata(bottom.collections[0].get_array()).reshape(4, 48)
    assert cells[2, 37] == expected["down.2"]
    # A map of norms without any such feature is a strip.
    assert top.get_window_extent().height < 0.35 * bottom.get_window_extent().height


def test_each_linear_input_of_the_map_has_its_numbers_where_it_is_drawn():
    model = Gated()
    with torch.no_grad():
        model.up[2].bias[37] = 30.0
    rendered = figures.render(record(model, X), "outlier_map")
    boxes = {layer: (box[1], box[3]) for layer, _, box in rendered._overlay}
    height = rendered._figure.bbox.height
    assert list(boxes) == [*(f"norms.{n}" for n in range(4)), *(f"down.{n}" for n in range(4))]
    for layer, (y, tall) in boxes.items():
        axes = rendered._figure.axes[0 if layer.startswith("norms") else 1].get_window_extent()
        assert axes.y0 - 0.1 <= height - y - tall <= height - y <= axes.y1 + 0.1


def test_one_axes_takes_the_chart_of_the_norms():
    model = Gated()
    with torch.no_grad():
        model.up[2].bias[37] = 30.0
    _, ax = plt.subplots()
    assert figures.outlier_map(record(model, X), ax=ax) is ax
    charts = figures.outlier_map(record(model, X)).figure.axes
    assert len([chart for chart in charts if chart.get_xlabel()]) == 2
    plt.close("all")


def test_linear_inputs_of_a_width_that_few_have_are_counted():
    model = Gated()
    model.head = torch.nn.Linear(16, 16)
    model.forward = lambda x: model.head(Gated.forward(model, x) * torch.where(torch.arange(16) == 3, 200, 1))
    found = outlier_map.summarize(record(model, X).tables)
    # `up` and the head are of one width: five layers, and so a chart.
    assert [len(chart.ratios) for chart in found.linear] == [5]
    model.head = torch.nn.Linear(48, 16)
    model.forward = lambda x: model.head(
        Gated.forward(model, x).repeat(1, 1, 3) * torch.where(torch.arange(48) == 3, 200, 1)
    )
    found = outlier_map.summarize(record(model, X).tables)
    assert [len(chart.ratios) for chart in found.linear] == [5]
    model.head = torch.nn.Linear(32, 16)
    model.forward = lambda x: model.head(
        Gated.forward(model, x).repeat(1, 1, 2) * torch.where(torch.arange(32) == 3, 200, 1)
    )
    recording = record(model, X)
    assert outlier_map.summarize(recording.tables).elsewhere == 1
    assert (
        "1 further Linear input with such a feature: see outliers.csv."
        in figures.render(recording, "outlier_map").caption
    )
