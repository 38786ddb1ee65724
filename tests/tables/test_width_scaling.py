"""Slopes over the width, as scipy and numpy fit them, and as mup's own check measures what they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import normprobe
from normprobe import NormprobeError, NoSamplesError

WIDTHS = (8, 16, 32, 64)


def net(width: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 3))


def data() -> Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def recorded(width: int, seed: int = 0) -> normprobe.Recording:
    return normprobe.record(net(width, seed), data(), part=f"{width} {seed}")


def means_by_hand(width: int, seed: int = 0) -> dict[str, float]:
    """Mean |x| of what each Linear writes, in float64."""
    model, x, found = net(width, seed), data(), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            if isinstance(layer, nn.Linear):
                found[name] = float(np.abs(x.double().numpy()).mean())
    return found


class TestSlopes:
    def test_are_those_of_scipy(self) -> None:
        seeds = (0, 1, 2)
        found = normprobe.scaling({w: [recorded(w, seed) for seed in seeds] for w in WIDTHS})
        assert found["layer"].tolist() == ["0", "2", "3"]
        by_hand = [(width, means_by_hand(width, seed)) for width in WIDTHS for seed in seeds]
        for row in found.itertuples():
            x, y = np.log([width for width, _ in by_hand]), np.log([means[row.layer] for _, means in by_hand])
            expected = linregress(x, y)
            assert row.slope == pytest.approx(expected.slope, rel=1e-5, abs=1e-8)
            assert row.standard_error == pytest.approx(expected.stderr, rel=1e-5)
            assert row.r2 == pytest.approx(expected.rvalue**2, rel=1e-5, abs=1e-8)
            assert row.points == 12
            assert row.smallest == pytest.approx(np.exp(y[:3].mean()), rel=1e-6)
            assert row.largest == pytest.approx(np.exp(y[-3:].mean()), rel=1e-6)
        assert set(found["widths"]) == {"8; 16; 32; 64"}
        assert set(found["reason"]) == {""}

    def test_of_a_power_are_its_exponent(self) -> None:
        def scaled(width: int) -> normprobe.Recording:
            layer = nn.Linear(2, 2, bias=False)
            layer.weight.data = torch.eye(2) * width**0.75
            return normprobe.record(nn.Sequential(layer), torch.ones(4, 2))

        found = normprobe.scaling({width: scaled(width) for width in (16, 4, 64)}).iloc[0]
        assert found["slope"] == pytest.approx(0.75, abs=1e-7)
        assert found["standard_error"] == pytest.approx(0, abs=1e-7)
        assert found["r2"] == pytest.approx(1)
        flat = normprobe.scaling({width: scaled(4) for width in (1, 2.5)}).iloc[0]
        assert flat["slope"] == 0
        assert np.isnan(flat["r2"])
        assert np.isnan(flat["standard_error"])
        assert flat["widths"] == "1; 2.5"

    def test_at_the_input_and_of_merged_parts(self, tmp_path: Any) -> None:
        halves = {
            width: normprobe.merge(
                normprobe.record(net(width), data()[:20], part="a"),
                normprobe.record(net(width), data()[20:], part="b"),
            )
            for width in WIDTHS
        }
        loaded = {w: normprobe.load(r.save(tmp_path / f"{w}.normprobe")) for w, r in halves.items()}
        whole = {width: recorded(width) for width in WIDTHS}
        for site in ("input", "output"):
            a, b = normprobe.scaling(loaded, site=site), normprobe.scaling(whole, site=site)
            assert a["slope"].to_numpy() == pytest.approx(b["slope"].to_numpy(), abs=1e-6)
        inputs = normprobe.scaling(whole, site="input").set_index("layer")
        assert inputs.loc["0", "slope"] == pytest.approx(0, abs=1e-9)

    def test_of_a_transformer_leave_padding_out(self) -> None:
        def llama(width: int, mask: Tensor) -> normprobe.Recording:
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=40, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
                num_attention_heads=2,
            )  # fmt: skip
            ids = torch.arange(24).reshape(2, 12)
            model = LlamaForCausalLM(config).eval()
            return normprobe.record(model, {"input_ids": ids, "attention_mask": mask})

        mask = torch.ones(2, 12, dtype=torch.long)
        mask[0, 7:] = 0
        found, every = (
            normprobe.scaling({width: llama(width, m) for width in (16, 32, 64)})
            for m in (mask, torch.ones_like(mask))
        )
        assert len(found) == 11
        # A norm's output keeps its size whatever the width.
        norms = found[found["kind"] == "rms_norm"]
        assert norms["slope"].abs().max() < 0.05
        assert not np.allclose(found["slope"], every["slope"], atol=1e-6)

    def test_of_gradients(self) -> None:
        def trained(width: int) -> normprobe.Recording:
            model = net(width)
            with normprobe.Probe(model, gradients=True) as probe:
                model(data()).square().mean().backward()
            return probe.recording

        found = normprobe.scaling({width: trained(width) for width in WIDTHS}, site="output_gradient")
        # Of a mean of squares the gradient of the last layer is its output ÷ its size.
        outputs = normprobe.scaling({width: recorded(width) for width in WIDTHS}).set_index("layer")
        last = found.set_index("layer").loc["3", "slope"]
        assert last == pytest.approx(outputs.loc["3", "slope"], abs=1e-5)


class Named(nn.Module):
    """A Linear of a given name, and one that writes nothing but zeros."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict({name: nn.Linear(2, width), "zero": nn.Linear(2, width)})
        for parameter in self.of["zero"].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x) for layer in self.of.values())  # type: ignore[return-value]


class TestWhatIsMissing:
    def test_is_said_of_each_layer(self) -> None:
        parts = [("a", 4), ("a", 8), ("b", 16)]
        made = {w: normprobe.record(Named(name, w), torch.ones(3, 2)) for name, w in parts}
        found = normprobe.scaling(made).set_index("layer")
        assert found.loc["of.a", ["widths", "reason"]].tolist() == ["4; 8", "not measured at 16"]
        assert found.loc["of.b", "reason"] == "not measured at 4, 8; no two widths are left"
        assert found.loc["of.zero", "reason"] == "all zeros at 4, 8, 16; no two widths are left"
        assert found["slope"].notna().tolist() == [True, False, False]
        assert found.loc["of.zero", "points"] == 0

    def test_layers_that_none_share(self) -> None:
        made = {4: Named("a", 4), 8: Named("b", 8)}
        with pytest.raises(
            NormprobeError, match=r"above 0 .* \(4: 'of.a', 'of.zero'; 8: 'of.b', 'of.zero'\)"
        ):
            normprobe.scaling({w: normprobe.record(m, torch.ones(3, 2)) for w, m in made.items()})

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ([1], "scaling takes recordings by the width .* got list$"),
            ({}, "needs two widths, got none"),
            ({8: "r"}, "needs two widths, got only 8"),
            ({0: "r", 8: "r"}, "got the width 0, which is no number above 0"),
            ({"8": "r", 16: "r"}, "got the width '8'"),
            ({True: "r", 16: "r"}, "got the width True"),
            ({8: [], 16: "r"}, "got none at 8"),
            ({8: "model", 16: "r"}, "got Sequential at 8"),
            ({8: ["r", "model"], 16: "r"}, "got Sequential at 8"),
        ],
    )
    def test_what_is_no_recording_by_width(self, given: Any, said: str) -> None:
        stands = {"r": recorded(8), "model": net(8)}

        def put(value: Any) -> Any:
            return [put(one) for one in value] if isinstance(value, list) else stands.get(value, value)

        if isinstance(given, dict):
            given = {width: put(value) for width, value in given.items()}
        with pytest.raises(NormprobeError, match=said):
            normprobe.scaling(given)

    def test_a_site_that_no_recording_has(self) -> None:
        with pytest.raises(
            NormprobeError, match=r"no recording has a site 'middle'; ask for 'input', 'output'$"
        ):
            normprobe.scaling({8: recorded(8), 16: recorded(16)}, site="middle")

    def test_a_recording_of_nothing(self) -> None:
        with pytest.warns(normprobe.NormprobeWarning), normprobe.Probe(net(8)) as probe:
            pass
        with pytest.raises(NoSamplesError, match="nothing was measured"):
            normprobe.scaling({8: probe.recording, 16: recorded(16)})


@pytest.mark.filterwarnings("ignore")
def test_the_points_are_those_of_mups_own_check() -> None:
    pytest.importorskip("mup", reason="mup is not installed", exc_type=ImportError)
    from mup.coord_check import get_coord_data

    from normprobe.tables.measures.width_scaling import width_points

    target = torch.zeros(50, dtype=torch.long)
    models = {width: lambda width=width: net(width) for width in WIDTHS}
    theirs = get_coord_data(
        models, [(data(), target)], mup=False, lr=0.1, nsteps=3, cuda=False, show_progress=False
    )
    ours = {}
    for width in WIDTHS:
        model = net(width)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with normprobe.Probe(model, window=1) as probe:
            for step in range(3):
                probe.step(step)
                loss = nn.functional.cross_entropy(model(data()), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        ours[width] = probe.recording
    for step in range(3):
        points = width_points({width: recording.window(step) for width, recording in ours.items()})
        held = theirs[theirs["t"] == step + 1].set_index(["module", "width"])["l1"]
        for point in points.itertuples():
            expected = held.loc[f"{point.layer}", point.width]
            assert point.abs_mean == pytest.approx(float(expected), rel=1e-5)
