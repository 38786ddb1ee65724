"""The callback for transformers' Trainer, in runs of the real one."""

from __future__ import annotations

import gc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import normprobe
from normprobe.errors import FindingError, NormprobeError
from normprobe.integrations.transformers import NormprobeCallback
from tests.helpers.oracle import two_pass
from tests.helpers.training import Written, hooks

# The libraries' own warnings are theirs; ours stay errors.
pytestmark = pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")
NORM = "bert.encoder.layer.1.output.LayerNorm"


class Fails(TrainerCallback):
    """Raises behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("the machine is on fire")


def bert() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 30, "max_position_embeddings": 16}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))


def texts(count: int) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, 30, (6,), generator=rng), "labels": torch.tensor(at % 2)}
        for at in range(count)
    ]


def trainer(model: nn.Module, folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
    defaults = {"max_steps": 12, "logging_steps": 3, "report_to": [], "save_strategy": "no"}
    defaults |= {"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    options = TrainingArguments(output_dir=str(folder / "trainer"), **(defaults | arguments))
    return Trainer(model, options, train_dataset=texts(80), eval_dataset=texts(16), callbacks=[*callbacks])


def steps(recording: normprobe.Recording) -> list[tuple[str, int, int, int]]:
    frame = recording.windows[["phase", "first_step", "last_step", "forwards"]]
    return [tuple(row) for row in frame.itertuples(index=False)]


@pytest.mark.parametrize(
    ("arguments", "batches"), [({}, 12), ({"gradient_accumulation_steps": 2}, 24), ({"bf16": True}, 12)]
)
def test_training_and_evaluation_are_measured_apart(
    tmp_path: Path, arguments: dict[str, Any], batches: int
) -> None:
    bare, model = bert(), bert()
    evaluated = {"eval_strategy": "steps", "eval_steps": 6, **arguments}
    trainer(bare, tmp_path, **evaluated).train()
    written = Written(model.get_submodule(NORM))
    callback = NormprobeCallback(every=1, window=None, log=False)
    trainer(model, tmp_path, callback, **evaluated).train()

    assert steps(callback.recording) == [("train", 1, 12, batches), ("validation", 6, 12, 4)]
    for number, training in ((0, True), (1, False)):
        features = callback.recording.window(number).features.query("layer == @NORM and site == 'output'")
        moments = two_pass(written.rows(training=training))
        assert features["mean"].to_numpy() == pytest.approx(moments["mean"], abs=1e-6)
        assert features["variance"].to_numpy() == pytest.approx(moments["variance"], rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), model.parameters(), strict=True))
    assert hooks(model) == 1  # the test's own


def test_windows_end_where_the_trainer_logs_and_their_numbers_are_logged(tmp_path: Path) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    callback = NormprobeCallback(every=2, log=lambda numbers, step: logged.append((step, numbers)), limit=10)
    evaluation = {"eval_strategy": "steps", "eval_steps": 5, "max_steps": 10}
    trainer(bert(), tmp_path, callback, **evaluation).train()
    windows = steps(callback.recording)
    assert windows == [
        *[("train", 1, 3, 3), ("train", 4, 6, 3), ("validation", 5, 5, 2)],
        *[("train", 7, 9, 3), ("validation", 10, 10, 2)],
    ]
    assert sorted(step for step, _ in logged) == sorted(last for _, _, last, _ in windows)
    steady = [set(numbers) for _, numbers in logged if "normprobe/nonfinite" in numbers]
    assert len(steady[0]) == 3 + 10
    assert all(before <= after for before, after in pairwise(steady))
    assert len(steady[-1]) <= 3 + 2 * 10
    of_training = [(step, numbers) for step, numbers in logged if "normprobe/nonfinite" in numbers]
    assert [step for step, _ in of_training] == [3, 6, 9]
    for step, numbers in of_training:
        number = next(i for i, row in enumerate(windows) if row[2] == step and row[0] == "train")
        layers = callback.recording.window(number).layers.query("site == 'input'").set_index("layer")
        for name, value in numbers.items():
            if name.startswith("normprobe/bert") and name.endswith("/input/variance"):
                assert value == layers["variance"][name.split("/")[1]]


def test_window_may_be_a_number_of_steps(tmp_path: Path) -> None:
    callback = NormprobeCallback(every=1, window=5, log=False)
    trainer(bert(), tmp_path, callback).train()
    assert steps(callback.recording) == [("train", 1, 5, 5), ("train", 6, 10, 5), ("train", 11, 12, 2)]


def test_a_run_that_failed_goes_on_from_its_checkpoint_and_counts_no_step_twice(tmp_path: Path) -> None:
    saved = {"save_strategy": "steps", "save_steps": 5}
    model, out = bert(), tmp_path / "run.windows"
    failing = trainer(model, tmp_path, NormprobeCallback(every=1, out=out, log=False), Fails(8), **saved)
    with pytest.raises(RuntimeError, match="on fire"):
        failing.train()
    del failing
    gc.collect()
    assert hooks(model) == 0
    assert steps(normprobe.load(out))[-1][2] == 8

    callback = NormprobeCallback(every=1, out=out, log=False)
    trainer(bert(), tmp_path, callback, **saved).train(resume_from_checkpoint=True)
    found = steps(callback.recording)
    expected = [(1, 3), (4, 5), (6, 6), (7, 9), (10, 10), (11, 12)]
    assert [(first, last) for _, first, last, _ in found] == expected
    assert sum(forwards for *_, forwards in found) == 12
    assert steps(normprobe.load(out)) == found


def test_a_trainer_that_begins_anew_takes_the_place_of_its_attempt(tmp_path: Path) -> None:
    model, callback = bert(), NormprobeCallback(every=1, out=tmp_path / "windows", log=False)
    first = trainer(model, tmp_path, callback, Fails(8))
    with pytest.raises(RuntimeError, match="on fire"):
        first.train()
    assert hooks(model) > 0  # of an exception the trainer tells nobody
    trainer(model, tmp_path, callback).train()
    assert hooks(model) == 0
    assert sum(forwards for *_, forwards in steps(callback.recording)) == 12
    with pytest.raises(NormprobeError, match="holds windows of an earlier run"):
        trainer(model, tmp_path, callback).train()
    assert hooks(model) == 0


def test_close_removes_hooks_after_an_exception(tmp_path: Path) -> None:
    model, callback = bert(), NormprobeCallback(every=1, log=False)
    with pytest.raises(RuntimeError, match="on fire"):
        trainer(model, tmp_path, callback, Fails(4)).train()
    callback.close()
    callback.close()
    assert hooks(model) == 0
    assert sum(forwards for *_, forwards in steps(callback.recording)) == 4


def test_a_finding_may_end_a_run_and_leaves_no_hook(tmp_path: Path) -> None:
    model, found = bert(), []
    with torch.no_grad():
        model.get_submodule(NORM).weight[3] = float("nan")
    callback = NormprobeCallback(every=1, log=False, on_finding=found.append, stop_on="error")
    with pytest.raises(FindingError, match="steps 1 to 3"):
        trainer(model, tmp_path, callback).train()
    assert hooks(model) == 0
    assert found[0]["check"] == "nonfinite"
    assert steps(callback.recording) == [("train", 1, 3, 3)]


def test_a_compiled_model_has_its_own_graphs_and_is_measured_in_them(tmp_path: Path) -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 2}
    callback = NormprobeCallback(every=1, log=False)
    made = []
    for callbacks in ([], [callback]):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        run = trainer(bert(), tmp_path, callback, **compiled)
        if not callbacks:
            run.remove_callback(callback)
        run.train()
        counted = torch._dynamo.utils.counters
        made.append((counted["stats"]["unique_graphs"], sum(counted["graph_break"].values())))
    assert made[0] == made[1]
    assert made[1][1] == 0
    assert (callback.recording.layers["calls"] == 2).all()
    assert (callback.recording.ledger["status"] == "fired").all()


def test_the_scale_of_the_loss_is_that_of_the_trainers_optimizer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    variances = []
    for given in (None, scaler):
        callback = NormprobeCallback(every=1, log=False, gradients=True)
        arguments, state, control = trainer(bert(), tmp_path).args, TrainerState(), TrainerControl()
        handed = {"model": model, "optimizer": SimpleNamespace(scaler=given)}
        callback.on_train_begin(arguments, state, control, **handed)
        callback.on_step_begin(arguments, state, control)
        loss = model(x).square().sum()
        (loss if given is None else given.scale(loss)).backward()
        callback.on_train_end(arguments, state, control)
        layers = callback.recording.layers.query("site == 'output_gradient'")
        variances.append(layers["variance"].to_numpy())
    assert np.all(variances[0] > 0)
    assert variances[1] == pytest.approx(variances[0], rel=1e-5)


def test_what_a_callback_does_not_take_is_refused_ahead_of_training() -> None:
    with pytest.raises(TypeError, match="did you mean samples"):
        NormprobeCallback(sample=3)  # type: ignore[call-arg]
    with pytest.raises(NormprobeError, match='"logging" or None'):
        NormprobeCallback(window="epoch")  # type: ignore[arg-type]
    with pytest.raises(NormprobeError, match="limit must be"):
        NormprobeCallback(limit=0)
    with pytest.raises(NormprobeError, match="nothing was recorded yet"):
        _ = NormprobeCallback().recording
