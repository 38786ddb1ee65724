"""Healthy networks whose numbers look like faults by design: heads, codes, queries, branches, time steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normprobe


def warnings(recording: normprobe.Recording) -> list[tuple[str, str]]:
    found = recording.findings()
    found = found[found["severity"] != "info"]
    return list(zip(found["check"], found["layer"], strict=True))


def measured(model: nn.Module, *batches: Tensor) -> list[tuple[str, str]]:
    return warnings(normprobe.record(model, list(batches)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Time(nn.Module):
    """Sines and cosines of a time step through an MLP, as diffusion networks begin."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.logspace(0, -4, 32)
        return self.embed(torch.cat([angles.sin(), angles.cos()], -1))


@pytest.mark.parametrize("steps", [torch.tensor([3.0, 5.0]), torch.tensor([3.0, 5.0]).repeat(32)])
def test_a_few_distinct_time_steps_have_no_scale(steps: Tensor) -> None:
    assert measured(Time(), steps) == []


def test_features_on_wildly_different_scales_of_many_samples_are_found() -> None:
    x = torch.randn(64, 16) * torch.logspace(-3, 3, 16)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    assert ("input_scale", "0") in measured(model, x)


class ActorCritic(nn.Module):
    """Two towers, each with a head; the head of the actions is started a hundred times smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.pi, self.vf = (
            nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()) for _ in range(2)
        )
        self.action, self.value = nn.Linear(64, 3), nn.Linear(64, 1)
        nn.init.orthogonal_(self.action.weight, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.action(self.pi(x)), self.value(self.vf(x))


def test_a_head_that_is_started_small_does_not_vanish() -> None:
    assert measured(ActorCritic(), torch.randn(256, 8)) == []
    classifier = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(32, 32), nn.GELU())])
    classifier.append(nn.Linear(32, 10))
    nn.init.normal_(classifier[-1].weight, std=2e-5)
    nn.init.zeros_(classifier[-1].bias)
    assert measured(classifier, torch.randn(256, 32)) == []


def test_a_linear_inside_that_vanishes_is_found() -> None:
    model = nn.Sequential(*[part for _ in range(5) for part in (nn.Linear(32, 32), nn.GELU())])
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
    assert ("variance_vanishes", "4") in measured(model, torch.randn(256, 32))


class Quantized(nn.Module):
    """An autoencoder around a quantizer with a straight-through gradient."""

    def __init__(self, quantize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 12))
        self.decode = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 16))
        self.quantize = quantize

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x)
        return self.decode(z + (self.quantize(z) - z).detach())


def one_hot(z: Tensor) -> Tensor:
    return nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()


CODES = [torch.sign, lambda z: (z > 0).float(), lambda z: (1.499 * z.tanh()).round(), one_hot]


@pytest.mark.parametrize("quantize", CODES)
def test_codes_are_not_saturated(quantize: Callable[[Tensor], Tensor]) -> None:
    assert measured(Quantized(quantize), torch.randn(128, 16)) == []


def test_a_saturated_tanh_is() -> None:
    found = measured(Quantized(lambda z: (100 * z).tanh()), torch.randn(128, 16))
    assert ("saturated_input", "decode.0") in found


class MixedHeads(nn.Module):
    """Attention whose probabilities are mixed over the heads by a Linear."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.qkv, self.mix, self.out, self.scale = (
            nn.Linear(32, 96),
            nn.Linear(4, 4),
            nn.Linear(32, 32),
            scale,
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        shares = (self.scale * q @ k.mT).softmax(-1)
        mixed = self.mix(shares.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((mixed @ v).transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """A softmax over features, as a router has, into a Linear."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.score, self.out, self.scale = nn.Linear(16, 8), nn.Linear(8, 16), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.scale * self.score(x)).softmax(-1))


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_the_probabilities_of_a_softmax_are_not_saturated(scale: float) -> None:
    checks = {check for check, _ in measured(MixedHeads(scale), torch.randn(8, 20, 32))}
    checks |= {check for check, _ in measured(Gate(scale), torch.randn(128, 16))}
    assert "saturated_input" not in checks


class Adapted(nn.Module):
    """A Linear with a low-rank branch that a vector of zeros multiplies at first (AdaLoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = (
            nn.Linear(32, 32),
            nn.Linear(32, 8, bias=False),
            nn.Linear(8, 32, bias=False),
        )
        self.scale = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x) * self.scale)


def test_a_branch_multiplied_by_0_at_first_has_no_dead_units() -> None:
    model = nn.Sequential(Adapted(), nn.GELU(), Adapted(), nn.LayerNorm(32))
    assert measured(model, torch.randn(128, 32)) == []


class ClassAttention(nn.Module):
    """Blocks in which a learned class token alone asks the others; branches start small."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(48, 64), nn.Parameter(0.02 * torch.randn(1, 1, 64))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.queries = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        token = self.token.expand(len(x), -1, -1)
        for norm, query, value in zip(self.norms, self.queries, self.values, strict=True):
            y = norm(torch.cat([token, x], 1))
            token = token + 1e-3 * (query(y[:, :1]) @ y.mT / 8).softmax(-1) @ value(y)
        return self.head(self.norm(token)[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_a_learned_token_is_no_collapse(seed: int) -> None:
    torch.manual_seed(seed)
    assert measured(ClassAttention(), torch.randn(4, 16, 48)) == []


def test_a_constant_in_the_way_of_everything_is() -> None:
    class Ones(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0 + 1

    model = nn.Sequential(nn.Linear(16, 16), Ones(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert ("collapsed_samples", "2") in measured(model, torch.randn(64, 16))


class AfterBranches(nn.Module):
    """A block whose norms stand behind its branches, not ahead of them (OLMo 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256, bias=False), nn.Linear(256, 64, bias=False)
        self.k, self.o = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.k_norm, self.o_norm, self.down_norm = (nn.RMSNorm(64, eps=1e-6) for _ in range(3))
        for linear in (self.up, self.down, self.k, self.o):
            nn.init.normal_(linear.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.o_norm(self.o(self.k_norm(self.k(x)).softmax(-1)))
        return x + self.down_norm(self.down(nn.functional.silu(self.up(x))))


def test_norms_behind_branches_are_no_chain() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.RMSNorm(64), AfterBranches(), nn.RMSNorm(64), nn.Linear(64, 8))
    checks = {check for check, _ in measured(model, torch.randn(128, 8))}
    assert "variance_explodes" not in checks


class Parallel(nn.Module):
    """Branches of different scale, each with a norm, that read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(32)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32)) for _ in range(6))
        with torch.no_grad():
            for number, branch in enumerate(self.branches):
                branch[0].weight.mul_(4.0**number)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def test_parallel_branches_are_no_chain() -> None:
    found = normprobe.record(Parallel(), [torch.randn(128, 32)]).findings(["variance_explodes"])
    assert not found["message"].str.contains("per layer").any()


class ConvNormAct(nn.Module):
    """A convolution, its norm and a ReLU."""

    def __init__(self, *, act: bool = True) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x.relu() if self.act else x


class Residual(nn.Module):
    """A block whose last norm starts at a weight of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv3 = ConvNormAct(), ConvNormAct(act=False)
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv3(self.conv1(x))).relu()


@pytest.mark.parametrize("count", [1, 4])
def test_norms_started_at_0_are_a_note_at_most(count: int) -> None:
    names = {f"b{number}": Residual() for number in range(count)}
    model = nn.Sequential(ConvNormAct(), nn.ModuleDict(names).b0, *list(names.values())[1:])
    assert measured(model, torch.randn(8, 8, 12, 12)) == []
    with normprobe.Probe(model.train()) as probe:
        model(torch.randn(32, 8, 12, 12))
    assert warnings(probe.recording) == []


def test_batch_norms_over_two_values_explain_what_they_write() -> None:
    parts = [part for _ in range(2) for part in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    model = nn.Sequential(*parts, nn.Linear(16, 2)).train()
    with normprobe.Probe(model) as probe:
        for _ in range(32):
            model(torch.randn(2, 16))
    assert {check for check, _ in warnings(probe.recording)} == {"small_batch_statistics"}
