"""Training runs for the findings over time: healthy ones of several kinds, and faults put into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import normprobe
from benchmarks.findings.models_fitted import Block, Rows, cancer, cnn, digits, mlp, residual

STEPS, WINDOW, BATCH = 240, 12, 64

Change = Callable[["Run", int, Tensor], Tensor | None]


@dataclass(eq=False)
class Run:
    """A run under way, as a fault changes it.

    Attributes:
        model: the model.
        optimizer: its optimizer.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class Recipe:
    """How a healthy run trains.

    Attributes:
        build: makes the model.
        optimizer: makes its optimizer of the parameters.
        data: gives inputs and targets.
        schedule: the learning rate at a step, as a factor.
    """

    build: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    data: Callable[[], tuple[Tensor, Tensor]] = digits
    schedule: Callable[[int], float] = lambda step: 1.0


@dataclass(frozen=True)
class RunFault:
    """A fault of a run.

    Attributes:
        check: The check that must report it.
        recipe: The healthy run it is put into, by name.
        layers: The layers any of which it may be reported at; none for any.
        change: Called before each step; may return another batch.
        what: A few words.
        step: The step that must be named, give or take a window; None where none is due.
        build: Makes another model.
    """

    check: str
    recipe: str
    layers: tuple[str, ...]
    change: Change
    what: str
    step: int | None = None
    build: Callable[[], nn.Module] | None = None


def train(
    recipe: Recipe, fault: RunFault | None = None, seed: int = 0, **options: Any
) -> normprobe.Recording:
    """Train and evaluate in turn under one probe."""
    torch.manual_seed(seed)
    x, y = recipe.data()
    model = (fault.build if fault is not None and fault.build is not None else recipe.build)()
    optimizer = recipe.optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.schedule)
    run = Run(model, optimizer)
    with normprobe.Probe(model, window=WINDOW, gradients=True, **options) as probe:
        for step in range(STEPS):
            model.train()
            rows = torch.randint(len(x), (BATCH,))
            batch = x[rows]
            if fault is not None:
                with torch.no_grad():
                    changed = fault.change(run, step, batch)
                batch = batch if changed is None else changed
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), y[rows]).backward()
            optimizer.step()
            schedule.step()
            probe.step(step)
            if step % 60 == 59:
                model.eval()
                with torch.no_grad(), probe.phase("validation"):
                    model(x[:256])
    return probe.recording


def adam(rate: float = 1e-3) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, rate)


def sgd(rate: float = 0.05, momentum: float = 0.9) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum=momentum)


def warm_up(step: int) -> float:
    """Up over 40 steps, then down along a cosine."""
    if step < 40:
        return (step + 1) / 40
    return float(0.5 + 0.5 * torch.cos(torch.tensor((step - 40) / (STEPS - 40) * torch.pi)))


def he(model: nn.Module, gain: float = 1.0) -> nn.Module:
    """Initialize every Linear as He et al. do."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data *= gain
    return model


HEALTHY_RUNS: dict[str, Recipe] = {
    "mlp_adam": Recipe(lambda: mlp(64), adam()),
    "mlp_sgd": Recipe(lambda: mlp(64), sgd()),
    "mlp_fast": Recipe(lambda: mlp(64), adam(1e-2)),
    "mlp_tanh": Recipe(lambda: mlp(64, act=nn.Tanh), sgd()),
    "mlp_cancer": Recipe(lambda: mlp(30, out=2), adam(), cancer),
    "mlp_bn": Recipe(lambda: mlp(64, norm=nn.BatchNorm1d), adam()),
    "mlp_bn_sgd": Recipe(lambda: mlp(64, norm=nn.BatchNorm1d), sgd()),
    "mlp_ln": Recipe(lambda: mlp(64, norm=nn.LayerNorm), adam()),
    "mlp_rms": Recipe(lambda: mlp(64, norm=nn.RMSNorm), sgd()),
    "mlp_deep_he": Recipe(lambda: he(mlp(64, depth=10)), adam(3e-4)),
    "mlp_deep_bn": Recipe(lambda: mlp(64, depth=16, norm=nn.BatchNorm1d), adam()),
    "mlp_deep_ln": Recipe(lambda: mlp(64, depth=16, norm=nn.LayerNorm), adam()),
    "cnn_bn": Recipe(cnn, adam()),
    "cnn_bn_sgd": Recipe(cnn, sgd()),
    "cnn_gn": Recipe(lambda: cnn(lambda width: nn.GroupNorm(4, width)), adam()),
    "residual": Recipe(lambda: residual(64), adam(), schedule=warm_up),
    "residual_deep": Recipe(lambda: residual(64, depth=16), adam(3e-3), schedule=warm_up),
    "residual_bn": Recipe(lambda: residual(64, norm=nn.BatchNorm1d), sgd()),
    "rows_pre": Recipe(lambda: Rows(True), adam(3e-3), schedule=warm_up),
    "rows_post": Recipe(lambda: Rows(False), adam(), schedule=warm_up),
}


def when(step: int, change: Callable[[Run, Tensor], Tensor | None], last: int | None = None) -> Change:
    """A change at a step, or from it to a last one."""

    def at(run: Run, now: int, batch: Tensor) -> Tensor | None:
        return change(run, batch) if step <= now <= (step if last is None else last) else None

    return at


def always(change: Callable[[Run, int, Tensor], Tensor | None]) -> Change:
    return change


def nothing(run: Run, step: int, batch: Tensor) -> None:
    """Change nothing: the model itself is the fault."""


def times(name: str, factor: float) -> Callable[[Run, Tensor], None]:
    """Multiply a tensor of the model."""

    def change(run: Run, batch: Tensor) -> None:
        run.model.state_dict()[name].mul_(factor)

    return change


def put(name: str, value: float, share: float = 1.0) -> Callable[[Run, Tensor], None]:
    """Set (the first part of) a tensor of the model."""

    def change(run: Run, batch: Tensor) -> None:
        tensor = run.model.state_dict()[name]
        tensor[: max(1, int(len(tensor) * share))] = value

    return change


def rate(factor: float) -> Callable[[Run, Tensor], None]:
    """Multiply the learning rate, for this step."""

    def change(run: Run, batch: Tensor) -> None:
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    return change


def of_batch(change: Callable[[Tensor], Tensor]) -> Callable[[Run, Tensor], Tensor]:
    return lambda run, batch: change(batch)


def holding(value: float) -> Callable[[Tensor], Tensor]:
    """A batch whose example 7 has a value."""

    def change(batch: Tensor) -> Tensor:
        batch = batch.clone()
        batch[7].reshape(-1)[3] = value
        return batch

    return change


def momentum(value: float) -> Callable[[], nn.Module]:
    """An MLP whose first batch norm has another momentum."""

    def build() -> nn.Module:
        model = mlp(64, norm=nn.BatchNorm1d)
        model.get_submodule("1").momentum = value
        return model

    return build


def small_branches() -> nn.Module:
    """A residual net whose blocks halve the stream, as a bug in the sum would."""

    class Halving(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 4

    blocks = [Halving(32, nn.Identity) for _ in range(10)]
    return nn.Sequential(nn.Linear(64, 32), *blocks, nn.Linear(32, 10))


NAN, INF = float("nan"), float("inf")
VANISH, EXPLODE, UPDATE = "gradients_vanish", "gradients_explode", "update_out_of_range"
SPIKE, DRIFT, LAG, DIED = "variance_spike", "variance_drift", "running_statistics_lag", "features_stay_dead"
RUN_FAULTS = (
    RunFault(
        VANISH,
        "mlp_sgd",
        (),
        nothing,
        "20 layers of sigmoids",
        None,
        lambda: mlp(64, depth=20, act=nn.Sigmoid),
    ),
    RunFault(
        VANISH,
        "mlp_adam",
        (),
        nothing,
        "8 layers of sigmoids",
        None,
        lambda: mlp(64, depth=8, act=nn.Sigmoid),
    ),
    RunFault(VANISH, "mlp_sgd", (), nothing, "20 layers, torch's default", None, lambda: mlp(64, depth=20)),
    RunFault(
        VANISH, "mlp_deep_he", (), nothing, "10 layers, He / 3", None, lambda: he(mlp(64, depth=10), 1 / 3)
    ),
    RunFault(VANISH, "residual", (), nothing, "10 blocks that quarter", None, small_branches),
    RunFault(
        EXPLODE, "mlp_deep_he", (), nothing, "10 layers, He x 3", None, lambda: he(mlp(64, depth=10), 3.0)
    ),
    RunFault(
        EXPLODE, "mlp_deep_he", (), nothing, "16 layers, He x 2", None, lambda: he(mlp(64, depth=16), 2.0)
    ),
    RunFault(
        EXPLODE, "mlp_adam", (), nothing, "24 layers, He x 1.6", None, lambda: he(mlp(64, depth=24), 1.6)
    ),
    RunFault(UPDATE, "mlp_adam", (), always(lambda run, step, x: rate(300)(run, x)), "rate x 300"),
    RunFault(UPDATE, "rows_pre", (), always(lambda run, step, x: rate(100)(run, x)), "rate x 100"),
    RunFault(UPDATE, "mlp_sgd", (), always(lambda run, step, x: rate(1e-7)(run, x)), "rate / 10^7"),
    RunFault(UPDATE, "residual", (), always(lambda run, step, x: rate(1e-6)(run, x)), "rate / 10^6"),
    RunFault(SPIKE, "mlp_adam", ("0",), when(130, of_batch(lambda x: 30 * x)), "one batch x 30", 130),
    RunFault(SPIKE, "cnn_bn", ("2",), when(150, of_batch(lambda x: 60 * x)), "one batch x 60", 150),
    RunFault(SPIKE, "rows_pre", (), when(160, rate(300), 163), "rate x 300 for 4 steps", 160),
    RunFault(SPIKE, "mlp_sgd", (), when(140, rate(60), 142), "rate x 60 for 3 steps", 140),
    RunFault(SPIKE, "mlp_ln", ("3", "4"), when(145, times("3.weight", 4)), "weights x 4", 145),
    RunFault(
        SPIKE,
        "residual",
        ("3.norm",),
        when(170, times("3.norm.weight", 5)),
        "a norm's weight x 5",
        170,
    ),
    RunFault(SPIKE, "mlp_tanh", ("2", "3", "4"), when(155, times("2.weight", 1 / 6)), "weights / 6", 155),
    RunFault(
        DRIFT, "mlp_adam", ("0",), lambda run, step, x: x * 256 ** (step / STEPS), "data x 256 over the run"
    ),
    RunFault(
        DRIFT,
        "mlp_ln",
        ("3", "4"),
        always(lambda run, step, x: times("3.weight", 1.012)(run, x)),
        "weights grow",
    ),
    RunFault(
        DRIFT,
        "residual",
        ("3.norm",),
        always(lambda run, step, x: times("3.norm.weight", 1.015)(run, x)),
        "a norm's weight grows",
    ),
    RunFault(
        DRIFT,
        "mlp_bn",
        ("0", "1"),
        always(lambda run, step, x: times("0.weight", 0.97)(run, x)),
        "weights die out",
    ),
    RunFault(LAG, "mlp_bn", ("1",), nothing, "momentum 0.0001", None, momentum(1e-4)),
    RunFault(LAG, "mlp_bn_sgd", ("1",), nothing, "momentum 0.001", None, momentum(1e-3)),
    RunFault(
        LAG,
        "mlp_bn",
        ("1",),
        when(100, of_batch(lambda x: 4 * x + 2), STEPS),
        "data change, 0.002",
        None,
        momentum(2e-3),
    ),
    RunFault(DIED, "mlp_adam", ("2", "4"), when(120, put("2.bias", -50)), "bias -50", 120),
    RunFault(DIED, "mlp_sgd", ("4", "6"), when(130, put("4.bias", -50, 0.6)), "bias -50 in 60 %", 130),
    RunFault(DIED, "mlp_sgd", (), when(120, rate(400), 121), "rate x 400 for 2 steps", 120),
    RunFault("nonfinite", "mlp_adam", ("0",), when(137, of_batch(holding(NAN))), "NaN in the data", 137),
    RunFault("nonfinite", "cnn_bn", ("2",), when(101, of_batch(holding(INF))), "Inf in the data", 101),
    RunFault("nonfinite", "rows_pre", (), when(77, put("embed.weight", NAN, 0.1)), "NaN in a weight", 77),
    RunFault("nonfinite", "mlp_ln", ("3",), when(200, put("3.bias", INF, 0.1)), "Inf in a bias", 200),
)
