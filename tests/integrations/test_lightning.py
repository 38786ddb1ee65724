"""The callback for Lightning's trainer, in runs of the real one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import normprobe
from normprobe.errors import NormprobeError
from tests.helpers.oracle import two_pass
from tests.helpers.training import Written, hooks

lightning = pytest.importorskip("lightning.pytorch")

from normprobe.integrations.lightning import NormMonitor  # noqa: E402 - it needs Lightning

# The libraries' own warnings are theirs; ours stay errors.
pytestmark = pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")


class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A small model, which may raise at a step."""

    def __init__(self, fails: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
        self.fails = fails

    def training_step(self, batch: list[Tensor], at: int) -> Tensor:
        if self.global_step == self.fails:
            raise RuntimeError("the machine is on fire")
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], at: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def predict_step(self, batch: list[Tensor], at: int) -> Any:
        return self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def loader(count: int = 12) -> DataLoader[Any]:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4 * count, 6, generator=rng), torch.randint(0, 3, (4 * count,), generator=rng)
    return DataLoader(TensorDataset(x, y), 4)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "log_every_n_steps": 3, **quiet}
    return lightning.Trainer(callbacks=[*callbacks], default_root_dir=folder, **(defaults | options))


def steps(recording: normprobe.Recording) -> list[tuple[Any, ...]]:
    frame = recording.windows[["phase", "first_step", "last_step", "forwards"]]
    return [tuple(row) for row in frame.itertuples(index=False)]


@pytest.mark.parametrize(
    ("options", "last"), [({}, 12), ({"precision": "bf16-mixed", "accumulate_grad_batches": 2}, 6)]
)
def test_training_and_validation_are_apart_and_the_sanity_check_left_out(
    tmp_path: Path, options: dict[str, Any], last: int
) -> None:
    bare, model = Net(), Net()
    trainer(tmp_path, **options).fit(bare, loader(), loader(2))
    written = Written(model.net[1])
    monitor = NormMonitor(every=1, window=None, log=False)
    trainer(tmp_path, monitor, **options).fit(model, loader(), loader(2))

    assert steps(monitor.recording) == [("train", 1, last, 12), ("validation", last, last, 2)]
    validated = written.rows(training=False)
    assert len(validated) == 4 * (2 + 2)  # the sanity check first
    for number, seen in ((0, written.rows(training=True)), (1, validated[8:])):
        features = monitor.recording.window(number).features.query("layer == 'net.1' and site == 'output'")
        moments = two_pass(seen)
        assert features["mean"].to_numpy() == pytest.approx(moments["mean"], abs=1e-6)
        assert features["variance"].to_numpy() == pytest.approx(moments["variance"], rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))
    assert hooks(model) == 1  # the test's own


def test_an_exception_leaves_no_hook_and_its_windows(tmp_path: Path) -> None:
    model, out = Net(fails=7), tmp_path / "run.windows"
    monitor = NormMonitor(every=1, out=out, log=False)
    with pytest.raises(RuntimeError, match="on fire"):
        trainer(tmp_path, monitor).fit(model, loader())
    assert hooks(model) == 0
    expected = [("train", 1, 3, 3), ("train", 4, 6, 3), ("train", 7, 7, 1)]
    assert steps(monitor.recording) == steps(normprobe.load(out)) == expected


def test_a_run_that_failed_goes_on_from_its_checkpoint_and_counts_no_step_twice(tmp_path: Path) -> None:
    out = tmp_path / "run.windows"
    saves = lightning.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    failing = trainer(tmp_path, NormMonitor(every=1, out=out, log=False), saves, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="on fire"):
        failing.fit(Net(fails=8), loader())
    assert steps(normprobe.load(out))[-1] == ("train", 7, 8, 2)

    monitor = NormMonitor(every=1, out=out, log=False)
    trainer(tmp_path, monitor).fit(Net(), loader(), ckpt_path=str(tmp_path / "step=5.ckpt"))
    found = steps(monitor.recording)
    assert [row[1:3] for row in found] == [(1, 3), (4, 5), (6, 6), (7, 9), (10, 12)]
    assert sum(row[3] for row in found) == 12
    assert steps(normprobe.load(out)) == found


def test_what_is_tested_and_predicted_joins_the_recording(tmp_path: Path) -> None:
    model, monitor = Net(), NormMonitor(every=1, window=None, log=False)
    of = trainer(tmp_path, monitor)
    of.fit(model, loader())
    of.test(model, loader(3), verbose=False)
    of.predict(model, loader(2))
    of.validate(model, loader(1), verbose=False)
    assert steps(monitor.recording) == [
        *[("train", 1, 12, 12), ("test", 12, 12, 3), ("predict", 12, 12, 2), ("validation", 12, 12, 1)]
    ]
    assert hooks(model) == 0

    alone = NormMonitor(every=1, out=tmp_path / "none", log=False)
    trainer(tmp_path, alone).test(model, loader(3), verbose=False)
    assert [row[0] for row in steps(alone.recording)] == ["test"]
    assert not (tmp_path / "none").exists()


def test_the_scale_of_the_loss_is_that_of_the_trainers_precision(tmp_path: Path) -> None:
    variances = []
    for precision in ("32-true", "16-mixed"):
        plugin = None
        if precision == "16-mixed":
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
            plugin = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        monitor = NormMonitor(every=1, window=None, log=False, gradients=True)
        trainer(tmp_path, monitor, plugins=plugin, limit_train_batches=2).fit(Net(), loader())
        layers = monitor.recording.layers.query("site == 'output_gradient'").set_index("layer")
        variances.append(layers["variance"])
        assert not monitor.recording.parameters.empty
    assert (variances[0] > 0).all()
    assert variances[1].to_numpy() == pytest.approx(variances[0].to_numpy(), rel=0.05)


def test_numbers_go_to_the_trainers_loggers(tmp_path: Path) -> None:
    logger = lightning.loggers.CSVLogger(tmp_path)
    monitor = NormMonitor(every=1)
    trainer(tmp_path, monitor, logger=logger).fit(Net(), loader(), loader(2))
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("", "validation/"):
        column = f"normprobe/{name}net.1/output/variance"
        logged = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        phase = "validation" if name else "train"
        time = monitor.recording.over_time("layers", phase=phase).query(
            "layer == 'net.1' and site == 'output'"
        )
        assert logged == list(zip(time["last_step"], time["variance"], strict=True))
        assert len(logged) == (1 if name else 4)


def test_numbers_in_files_of_tensorboard_are_those_of_the_windows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = lightning.loggers.TensorBoardLogger(tmp_path)
    monitor = NormMonitor(every=1)
    trainer(tmp_path, monitor, logger=logger).fit(Net(), loader())
    read = EventAccumulator(logger.log_dir).Reload().Scalars("normprobe/net.0/input/variance")
    time = monitor.recording.over_time("layers").query("layer == 'net.0' and site == 'input'")
    assert [event.step for event in read] == time["last_step"].tolist() == [3, 6, 9, 12]
    assert [event.value for event in read] == pytest.approx(time["variance"].tolist(), rel=1e-6)


def test_several_optimizers_make_several_steps_a_batch(tmp_path: Path) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD([parameter], 0.1) for parameter in list(self.parameters())[:2]]

        def training_step(self, batch: list[Tensor], at: int) -> None:  # type: ignore[override]
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
                optimizer.step()

    monitor = NormMonitor(every=1, window=None, log=False)
    trainer(tmp_path, monitor).fit(Two(), loader(3))
    assert steps(monitor.recording) == [("train", 2, 6, 6)]


def test_a_compiled_model_is_measured(tmp_path: Path) -> None:
    monitor = NormMonitor(every=1, log=False)
    trainer(tmp_path, monitor, max_steps=2).fit(torch.compile(Net(), backend="eager"), loader())
    assert (monitor.recording.layers["calls"] == 2).all()


def test_what_a_callback_does_not_take_is_refused_ahead_of_training() -> None:
    with pytest.raises(TypeError, match="did you mean kinds"):
        NormMonitor(kind="linear")
    with pytest.raises(NormprobeError, match='"logging" or None'):
        NormMonitor(window="epoch")
