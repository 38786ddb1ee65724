"""Models side by side: exact errors of every row, local and accumulated, and no trace left."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normprobe import NormprobeError, NoSamplesError, RecordingError, compare_live
from tests.helpers.comparison_models import Net, batches, changed, net, port, quantize
from tests.helpers.report_models import text_of


def fault(model: Net) -> None:
    quantize(model.layers[0].down, 4)
    model.layers[1].up.weight.mul_(1.05)


def captured(model: nn.Module, data: list[Tensor]) -> dict[tuple[str, str], np.ndarray]:
    """Inputs and outputs of every Linear and norm over all batches, rows by features, float64."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            for site, tensor in (("input", args[0]), ("output", output)):
                found.setdefault((name, site), []).append(tensor.detach().double().flatten(0, -2).numpy())

        return hook

    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.LayerNorm))}
    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    with torch.no_grad():
        for batch in data:
            model(batch)
    for handle in handles:
        handle.remove()
    return {key: np.concatenate(parts) for key, parts in found.items()}


def power_db(noise: np.ndarray, signal: np.ndarray) -> float:
    return float(10 * np.log10((noise**2).sum() / (signal**2).sum()))


def test_errors_and_cosine_are_those_of_all_rows_in_float64() -> None:
    a, b = net(), changed(net(), fault)
    x, y = captured(a, batches()), captured(b, batches())
    rows = compare_live(a, b, batches()).layers.set_index(["layer", "site"])
    assert (rows["error_of"] == "all").all()
    assert (rows["pairs"] == 120).all()
    for key, of_a in x.items():
        noise = y[key] - of_a
        if not noise.any():
            assert rows.loc[key, "error_db"] == -np.inf
            continue
        assert rows.loc[key, "error_db"] == pytest.approx(power_db(noise, of_a), abs=1e-9)
        cosine = (of_a * y[key]).sum() / np.sqrt((of_a**2).sum() * (y[key] ** 2).sum())
        assert rows.loc[key, "cosine"] == pytest.approx(cosine, abs=1e-12)
        shift = np.sqrt(np.square(y[key].mean(0) - of_a.mean(0)).mean() / (of_a**2).mean())
        assert rows.loc[key, "mean_shift"] == pytest.approx(shift, rel=1e-9)
        ratio = np.log(y[key].var() / of_a.var())
        assert rows.loc[key, "log_variance_ratio"] == pytest.approx(ratio, abs=1e-12)


def test_what_is_introduced_is_the_second_layer_on_the_first_ones_input() -> None:
    a, b = net(), changed(net(), fault)
    x, y = captured(a, batches()), captured(b, batches())
    comparison = compare_live(a, b, batches())
    rows = comparison.layers.set_index(["layer", "site"])
    for name in ("layers.0.down", "layers.1.up", "layers.2.first_norm"):
        row = rows.loc[(name, "output")]
        with torch.no_grad():
            read = torch.from_numpy(x[name, "input"]).float()
            local = b.get_submodule(name)(read).double().numpy()
        assert row["split"] == "measured"
        own = local - x[name, "output"]
        if np.abs(own).max() > 1e-5:
            assert row["introduced_db"] == pytest.approx(power_db(own, x[name, "output"]), abs=1e-4)
        else:
            assert row["introduced_db"] < -120
        if name != "layers.0.down":
            brought = power_db(y[name, "output"] - local, x[name, "output"])
            assert row["inherited_db"] == pytest.approx(brought, abs=1e-3)
    assert list(rows[rows["introduces"]].index) == [("layers.0.down", "output"), ("layers.1.up", "output")]
    assert comparison.first_divergence.layer == "layers.0.down"  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 7, 24])
def test_batches_change_nothing_but_rounding(size: int) -> None:
    a, b, data = net(), changed(net(), fault), torch.cat(batches())
    whole, cut = (compare_live(a, b, list(data.split(n))).layers for n in (24, size))
    different = whole["error_db"] > -90
    assert different.sum() > 10
    np.testing.assert_allclose(cut["error_db"][different], whole["error_db"][different], atol=1e-3)
    assert (cut["beyond"] == whole["beyond"]).all()


def test_a_model_and_its_copy_are_equal() -> None:
    comparison = compare_live(net(), copy.deepcopy(net()), batches())
    assert comparison.verdict == "Equal: no difference at any of 25 layers."
    model = net()
    assert compare_live(model, model, batches()).verdict.startswith("Equal: no difference")


def test_another_dtype_gets_batches_of_its_own_and_drifts() -> None:
    comparison = compare_live(net(), net().bfloat16(), batches())
    assert comparison.meta["precision_differs"]
    assert comparison.first_divergence is None
    assert comparison.verdict_code == "within_precision"


def test_a_port_is_compared_where_layers_match() -> None:
    twin = changed(port(net()), lambda m: m.h[2].fc1.bias.zero_())
    comparison = compare_live(net(), twin, batches())
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.layer_b, found.site) == ("layers.2.up", "h.2.fc1", "output")
    assert len(comparison.unmatched) == 12


def test_padding_is_left_out() -> None:
    class Masked(nn.Module):
        """Reads anything at padded positions, and gives it other values in each copy."""

        def __init__(self, junk: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.norm, self.junk = nn.Linear(16, 8), nn.LayerNorm(8), junk

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            x = x.masked_fill(attention_mask[..., None] == 0, self.junk)
            return self.norm(self.up(x))

    mask = torch.ones(8, 5, dtype=torch.int64)
    mask[:, 3:] = 0
    data = [{"x": batch, "attention_mask": mask} for batch in batches()]
    comparison = compare_live(Masked(1.0), Masked(7.0), data)
    assert comparison.verdict == "Equal: no difference at any of 2 layers."
    assert (comparison.layers["pairs"] == 72).all()


def test_a_layer_called_often_pairs_call_by_call() -> None:
    class Looped(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.gain = nn.Linear(16, 16), gain

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(self.inner(x)) * self.gain
            return x

    comparison = compare_live(Looped(1.0), Looped(1.1), batches())
    assert (comparison.layers["pairs"] == 360).all()
    assert comparison.first_divergence.site == "input"  # type: ignore[union-attr]
    assert compare_live(Looped(1.0), Looped(1.0), batches()).first_divergence is None


def test_values_overwritten_afterwards_are_compared_as_they_were() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            z = self.down(y)
            y.zero_()
            return z

    twin = changed(Overwriting(), lambda m: m.up.weight.mul_(1.1))
    rows = compare_live(Overwriting(), twin, batches()).layers.set_index(["layer", "site"])
    assert -40 < rows.loc[("up", "output"), "error_db"] < -5


def test_a_tensor_overwritten_between_two_layers_is_read_anew() -> None:
    class Reusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            z: Tensor = self.up(y).mean()
            return self.down(y.mul_(2)) + z

    assert compare_live(Reusing(), Reusing(), batches()).first_divergence is None


def test_nan_in_one_only_is_a_divergence() -> None:
    twin = changed(net(), lambda m: m.layers[1].value.bias[2].fill_(float("nan")))
    found = compare_live(net(), twin, batches()).first_divergence
    assert found is not None
    assert (found.layer, found.error_db) == ("layers.1.value", np.inf)


class Drawing(nn.Module):
    """Trains, drops out and draws: all that must be as before afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.norm, self.drop = nn.Linear(16, 8), nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.up(x) + torch.rand(8)))


class TestTrace:
    def test_nothing_of_the_models_changes(self) -> None:
        a, b = Drawing().train(), Drawing().train()
        b.up.eval()
        before = copy.deepcopy((a.state_dict(), b.state_dict()))
        state, grad = torch.get_rng_state(), torch.is_grad_enabled()
        comparison = compare_live(a, b, batches())
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.is_grad_enabled() is grad
        assert (a.training, a.norm.training, b.training, b.up.training) == (True, True, True, False)
        for model, held in zip((a, b), before, strict=True):
            assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
            assert all(parameter.grad is None for parameter in model.parameters())
        assert comparison.verdict.startswith("Equal: no difference")

    def test_also_after_an_exception(self) -> None:
        a, b = net().train(), net().train()
        b.layers[1].act = nn.Linear(3, 3)
        state = torch.get_rng_state()
        with pytest.raises(RuntimeError):
            compare_live(a, b, batches())
        assert torch.equal(torch.get_rng_state(), state)
        for model in (a, b):
            assert all(module.training for module in model.modules())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_hooks_of_others_run_once_per_forward(self) -> None:
        a, b = net(), net()
        calls: list[str] = []
        b.layers[0].up.register_forward_hook(lambda *_: calls.append("up"))
        compare_live(a, b, batches())
        assert len(calls) == 4  # once more for the first batch, which tells what to match

    def test_no_tensor_outlives_its_batch(self) -> None:
        counts: list[int] = []

        def count(done: int) -> None:
            gc.collect()
            counts.append(sum(type(thing) is Tensor for thing in gc.get_objects()))

        compare_live(net(), net(), iter(batches(5)), progress=count)
        assert len(set(counts[1:])) == 1


def test_a_generator_is_read_once_and_progress_is_reported() -> None:
    done: list[int] = []
    comparison = compare_live(net(), net(), iter(batches()), progress=done.append)
    assert done == [1, 2, 3]
    assert comparison.meta["examples"] == (24, 24)


def test_the_report_says_that_all_rows_were_compared(tmp_path: Path) -> None:
    comparison = compare_live(net(), changed(net(), fault), batches())
    words = text_of(comparison.report(tmp_path).read_text())
    assert "Both models ran on the same batches, and every row was compared" in words
    assert "is taken to pass through unchanged" not in words


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (lambda: (net(), "model", batches()), NormprobeError, "takes two models, got str"),
        (lambda: (net(), net(), []), NoSamplesError, "there are no batches"),
        (lambda: (net(), net(), [3]), NormprobeError, "a batch is a tensor"),
        (lambda: (net(), nn.Sequential(nn.Linear(16, 3)), batches()), RecordingError, "can be matched"),
    ],
)
def test_errors_say_what_was_needed(arguments: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        compare_live(*arguments())
