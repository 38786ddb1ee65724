"""BatchNorm held against its data: distances with their formulas, and statistics collected anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

import normprobe
from normprobe.batchnorm import audit, channels, recalibrate, score
from normprobe.errors import NormprobeError


def net(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(8, 5), nn.BatchNorm1d(5, momentum=momentum), nn.Linear(5, 3),
    )  # fmt: skip


def data(rows: int = 90, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, 6, generator=torch.Generator().manual_seed(1)) + 1


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_distances_are_those_of_normal_distributions() -> None:
    model = net().eval()
    with torch.no_grad():
        model[1].running_mean.copy_(torch.linspace(-1, 1, 8))
        model[1].running_var.copy_(torch.linspace(0.2, 3, 8))
    recording = normprobe.record(model, data())
    rows = channels(recording).query("layer == '1'").set_index("feature")
    seen = model[0](data()).detach().double().numpy()
    for feature, row in rows.iterrows():
        mean, variance = seen[:, feature].mean(), seen[:, feature].var(ddof=1)
        old = stats.norm(
            float(model[1].running_mean[feature]), (float(model[1].running_var[feature]) + 1e-5) ** 0.5
        )
        new = stats.norm(mean, (variance + 1e-5) ** 0.5)
        kl = integrate.quad(
            lambda x, p=new, q=old: (p.pdf(x) - q.pdf(x)) * (p.logpdf(x) - q.logpdf(x)), -30, 30, limit=500
        )[0]
        overlap = integrate.quad(lambda x, p=new, q=old: np.sqrt(p.pdf(x) * q.pdf(x)), -30, 30, limit=500)[0]
        assert row["kl"] == pytest.approx(kl, rel=1e-5)
        assert row["hellinger"] == pytest.approx(np.sqrt(1 - overlap), rel=1e-5)
        assert row["shift"] == pytest.approx((mean - old.mean()) / old.std(), rel=1e-5)
        assert row["log_variance_ratio"] == pytest.approx(np.log(new.var() / old.var()), rel=1e-5)


def test_an_audit_has_a_row_per_layer_and_names_the_channels_that_moved_most() -> None:
    model = net().eval()
    recalibrate(model, data())
    with torch.no_grad():
        model[5].running_mean[3] += 10 * model[5].running_var[3].sqrt()
    table = audit(normprobe.record(model, data()))
    assert table["layer"].tolist() == ["1", "5"]
    assert table["n_features"].tolist() == [8, 5]
    assert table["training"].tolist() == ["eval", "eval"]
    assert table["count"].tolist() == [90, 90]
    first, last = table.to_dict("records")
    assert first["hellinger"] < 1e-6
    assert last["channels"].split("; ")[0] == "3"
    assert last["hellinger"] > 0.15
    assert len(audit(normprobe.record(model, data()), top=1)["channels"][0].split("; ")) == 1


def test_a_model_without_running_statistics_has_an_empty_audit_and_no_score() -> None:
    plain = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    recording = normprobe.record(plain, data())
    assert audit(recording).empty
    assert list(audit(recording).columns) == list(audit(normprobe.record(net(), data())).columns)
    assert np.isnan(score(recording))


def test_the_score_rises_with_stale_statistics_and_with_answers_that_are_all_alike() -> None:
    model = net().eval()
    recalibrate(model, data())
    right = score(normprobe.record(model, data()))
    assert 0 <= right < 1
    assert score(normprobe.record(model, data(scale=9))) > right
    alike = score(normprobe.record(model, data()[:1].expand(90, 6)))
    assert alike > right
    with torch.no_grad():
        model[5].running_var.mul_(30)
    assert score(normprobe.record(model, data())) > right


def test_the_score_of_a_model_that_ends_in_a_batch_norm_is_its_hellinger_distance() -> None:
    model = net()[:6].eval()
    recording = normprobe.record(model, data(scale=2))
    assert score(recording) < 1
    without = nn.Sequential(model[0], model[1]).eval()
    recording = normprobe.record(without, data())
    assert score(recording) == pytest.approx(audit(recording)["hellinger"].iloc[-1])


@pytest.mark.parametrize("cut", [[90], [30, 60], [20, 20, 50]])
def test_the_first_norm_gets_the_moments_of_all_data_however_it_is_cut(cut: list[int]) -> None:
    model = net()
    table = recalibrate(model, list(data().split(cut)))
    read = model[0](data()).detach().double()
    torch.testing.assert_close(model[1].running_mean.double(), read.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), read.var(0), rtol=1e-6, atol=1e-6)
    assert table["layer"].tolist() == ["1", "5"]
    assert table["calls"].tolist() == [len(cut)] * 2
    assert table["count"].tolist() == [90, 90]


def test_later_norms_read_what_earlier_ones_write_in_train_mode() -> None:
    model = net()
    recalibrate(model, data())
    with torch.no_grad():
        inner = model[4](model[1].train()(model[0](data())).relu())
    torch.testing.assert_close(model[5].running_var, inner.var(0), rtol=1e-5, atol=1e-6)


def test_all_calls_of_one_norm_count() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(5 * x)

    model = Twice()
    table = recalibrate(model, data())
    both = torch.cat([data(), 5 * data()])
    torch.testing.assert_close(model.norm.running_var, both.var(0), rtol=1e-6, atol=1e-6)
    assert table["calls"].tolist() == [2]


def test_everything_else_is_as_found() -> None:
    model = net()
    model.register_buffer("counter", torch.zeros(()))
    calls = []
    model[4].register_forward_hook(lambda module, args, output: calls.append(torch.rand(1)))
    model.register_forward_hook(lambda module, args, output: model.counter.add_(1))
    model[5].eval()
    model[0].weight.grad = torch.ones(8, 6)
    before, modes = state(model), [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    torch.manual_seed(3)
    random = torch.get_rng_state()
    recalibrate(model, data().split(30))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert len(calls) == 3
    assert torch.equal(model[0].weight.grad, torch.ones(8, 6))
    assert all(parameter.requires_grad for parameter in model.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{norm}.running_{what}" for norm in (1, 5) for what in ("mean", "var")}


def test_a_cumulative_average_goes_on_with_the_weight_of_what_was_collected() -> None:
    model = net(momentum=None)
    recalibrate(model, data().split(30))
    assert [int(model[norm].num_batches_tracked) for norm in (1, 5)] == [3, 3]
    kept = net()
    kept(data())
    recalibrate(kept, data().split(30))
    assert int(kept[1].num_batches_tracked) == 1


def test_padding_is_left_out_unless_it_is_asked_for() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(9, 4), nn.BatchNorm1d(4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.norm(self.embed(input_ids).transpose(1, 2))

    torch.manual_seed(0)
    model = Padded()
    ids, mask = torch.randint(1, 9, (6, 5)), torch.ones(6, 5, dtype=torch.long)
    ids[:3, 2:], mask[:3, 2:] = 0, 0
    batch = {"input_ids": ids, "attention_mask": mask}
    table = recalibrate(model, [batch])
    real = model.embed(ids)[mask.bool()].detach()
    torch.testing.assert_close(model.norm.running_mean, real.mean(0))
    torch.testing.assert_close(model.norm.running_var, real.var(0))
    assert table["count"].tolist() == [21]
    recalibrate(model, [batch], mask=None)
    torch.testing.assert_close(model.norm.running_var, model.embed(ids).flatten(0, 1).var(0).detach())


def test_some_layers_only() -> None:
    model = net()
    before = state(model)
    assert recalibrate(model, data(), layers="5")["layer"].tolist() == ["5"]
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    with torch.no_grad():
        read = model.eval()[:5](data())
    torch.testing.assert_close(model[5].running_mean, read.mean(0))


def test_without_a_batch_norm_there_is_nothing_to_score() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))
    assert audit(normprobe.record(model, data())).empty
    assert normprobe.batchnorm.channels(normprobe.record(model, data())).empty
    with pytest.raises(
        normprobe.NormprobeError, match=r"^the model has no BatchNorm: all is layer_norm, linear$"
    ):
        score(normprobe.record(model, data()))
    recording = normprobe.record(net(), data(), kinds="linear")
    with pytest.raises(normprobe.NormprobeError, match=r"that was probed .* is linear; record it without"):
        score(recording)


def test_a_wrapped_model_is_reached() -> None:
    assert recalibrate(nn.DataParallel(net()), data())["layer"].tolist() == ["1", "5"]


@pytest.mark.parametrize(
    ("model", "batches", "error", "says"),
    [
        (nn.Linear(6, 2), data(), normprobe.NoLayersError, "the model has no BatchNorm.*Linear has linear"),
        (nn.ReLU(), data(), normprobe.NoLayersError, "the model has no BatchNorm.*ReLU has neither"),
        (nn.BatchNorm1d(6, track_running_stats=False), data(), normprobe.NoLayersError, "of BatchNorm1d"),
        (net(), [], normprobe.NoSamplesError, "there are no batches"),
        (net(), data(1), normprobe.NormprobeError, "batches of more examples"),
        (net(), [data(), data() * torch.nan], normprobe.NormprobeError, "1 .BatchNorm1d. read 720 values"),
        (net(), [[7, 8, 9]], TypeError, "must be Tensor, not int"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(
    model: nn.Module, batches: Any, error: type[Exception], says: str
) -> None:
    before, modes = state(model), [module.training for module in model.modules()]
    with pytest.raises(error, match=says):
        recalibrate(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_recalibration_mends_a_stale_model_and_the_findings_say_so(tmp_path: Path) -> None:
    model = net().eval()
    recalibrate(model, data())
    stale = copy.deepcopy(model)
    with torch.no_grad():
        stale[1].running_var.mul_(20)
    assert normprobe.record(stale, data()).findings(["stale_running_statistics"])["layer"].tolist() == ["1"]
    recalibrate(stale, data())
    assert normprobe.record(stale, data()).findings(["stale_running_statistics"]).empty
    torch.testing.assert_close(stale(data()), model(data()))
    recording = normprobe.record(stale, data())
    recording.save(tmp_path / "a.normprobe")
    assert score(normprobe.load(tmp_path / "a.normprobe")) == score(recording)


def test_a_model_in_place_of_a_recording_and_the_reverse_are_errors_in_words() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
    recording = normprobe.record(net, [torch.randn(16, 4)])
    for call in (audit, channels, score):
        words = rf"^{call.__name__} takes a recording, got Sequential; record the model first: normprobe\.ba"
        with pytest.raises(NormprobeError, match=words):
            call(net)
    with pytest.raises(NormprobeError, match=r"^recalibrate takes a model, got Recording"):
        recalibrate(recording, [torch.randn(16, 4)])


def test_batches_without_an_example_are_not_said_to_hold_one() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3))
    with pytest.raises(NormprobeError, match=r"^1 \(BatchNorm1d\) read no value: the batches hold no"):
        recalibrate(net, [torch.randn(0, 2, 5)])
