"""The words of a comparison: every sentence of a verdict and every finding, held against golden text."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe import Comparison, compare
from normprobe.divergence import VERDICTS
from tests.helpers.comparison_models import Net, Rounding, batches, changed, net, port, record

GOLDEN = Path(__file__).parent / "golden"


def fault(change: Callable[[Net], object], **options: object) -> Comparison:
    return compare(record(net()), record(changed(net(), change), **options))


def rounding() -> Comparison:
    data = torch.cat(batches())
    return compare(record(net(), list(data.split(8))), record(net(), list(data.split(3))))


def precision() -> Comparison:
    data = [batch.bfloat16() for batch in batches()]
    return compare(record(net()), record(net().bfloat16(), data))


def one_layer_coarser(model: Net) -> None:
    model.layers[1].up = Rounding(model.layers[1].up)  # type: ignore[assignment]


def two_faults(model: Net) -> None:
    model.layers[0].down.weight.mul_(1.02)
    model.layers[1].second_norm.eps = 1e-3


def other_data(
    change: Callable[[Net], object], scale: float = 1.0, count: int = 4, size: int = 8
) -> Comparison:
    one = record(net(blocks=2), batches(count, size, seed=1))
    other = [scale * batch for batch in batches(count, size, seed=2)]
    return compare(one, record(changed(net(blocks=2), change), other))


def other_parts(change: Callable[[Net], object]) -> Comparison:
    """The same data as one part and as two."""
    data = batches(4, 8)
    parts = []
    for at in range(2):
        with normprobe.Probe(net(), part=f"part {at}") as probe, torch.no_grad():
            for batch in data[2 * at : 2 * at + 2]:
                probe.model(batch)
        parts.append(probe.recording)
    return compare(record(changed(net(), change), data), normprobe.merge(*parts))


def another_order() -> Comparison:
    class Branches(nn.Module):
        def __init__(self, late: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right, self.late = nn.Linear(16, 16), nn.Linear(16, 16), late

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.late:
                y = self.right(x)
                return self.left(x) + y
            return self.left(x) + self.right(x)

    return compare(record(Branches(False)), record(Branches(True)))


def another_head() -> Comparison:
    twin = copy.deepcopy(net())
    twin.head = nn.Linear(16, 2)
    twin.forward = lambda x: twin.head(Net.forward(twin, x))  # type: ignore[method-assign]
    return compare(record(net()), record(twin))


CASES: dict[str, Callable[[], Comparison]] = {
    "equal": lambda: compare(record(net()), record(net())),
    "within_rounding": rounding,
    "within_precision": precision,
    "in_a_layer": lambda: fault(lambda m: m.layers[1].down.weight.mul_(1.05)),
    "between_layers": lambda: fault(lambda m: setattr(m.layers[1], "act", nn.ReLU())),
    "before_all_layers": lambda: compare(
        record(net()), record(net(), [batch + 0.1 * batch.roll(1, -1) for batch in batches()]), same_data=True
    ),
    "nan": lambda: fault(lambda m: m.layers[1].value.bias[2].fill_(float("nan"))),
    "two_faults": lambda: fault(two_faults),
    "another_dtype": lambda: fault(one_layer_coarser),
    "another_kind": lambda: fault(lambda m: setattr(m.layers[1], "first_norm", nn.RMSNorm(16))),
    "fused": lambda: compare(record(net()), record(port(net()))),
    "another_head": another_head,
    "another_order": another_order,
    "within_sampling": lambda: other_data(lambda m: None),
    "too_few_examples": lambda: other_data(lambda m: None, count=1, size=3),
    "in_a_layer_on_other_data": lambda: other_data(lambda m: m.layers[1].output.bias.add_(3.0)),
    "data_of_another_kind": lambda: other_data(lambda m: None, scale=3.0),
    "other_parts": lambda: other_parts(lambda m: None),
}


def with_round_errors(comparison: Comparison) -> Comparison:
    """The comparison with -40 dB where it differs and -140 dB elsewhere: the same text on any machine."""
    layers = comparison.layers
    finite = layers["error_db"] < np.inf
    for column in ("error_db", "introduced_db", "inherited_db"):
        layers.loc[finite, column] = np.where(layers.loc[finite, "beyond"], -40.0, -140.0)
    layers["noise_db"] = -120.0
    return Comparison(replace(comparison.differences, layers=layers))


def text_of(comparison: Comparison) -> str:
    """Everything that is written about a comparison."""
    lines = [f"verdict_code: {comparison.verdict_code}", "", *str(comparison).splitlines(), ""]
    for row in comparison.findings().itertuples():
        lines += [
            f"{row.severity}: {row.title} ({row.check}, {row.layer} {row.site})",
            row.message,
            row.advice,
        ]
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_words_of_a_comparison(name: str) -> None:
    """NORMPROBE_WRITE_GOLDEN=1 writes the file anew, to be read before it is committed."""
    comparison = CASES[name]()
    written = text_of(comparison if name == "equal" else with_round_errors(comparison))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("NORMPROBE_WRITE_GOLDEN") == "1":
        golden.write_text(written, encoding="utf-8")
    assert written == golden.read_text(encoding="utf-8")
    assert repr(comparison) == f"<Comparison: {comparison.verdict}>"
    assert comparison.verdict == str(comparison).splitlines()[0]


def test_every_verdict_has_a_text() -> None:
    codes = {file.read_text(encoding="utf-8").split()[1] for file in GOLDEN.glob("*.txt")}
    assert codes == set(VERDICTS)
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CASES)
