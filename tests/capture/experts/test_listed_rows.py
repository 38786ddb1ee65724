"""Experts that are modules of a list: who their rows are, and that no number of rows is taken for a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

import normprobe
from tests.helpers.expert_models import ListOfExperts, batch, switch


def rows_of_switch(model: Any, name: str, given: dict[str, Any]) -> dict[int, np.ndarray]:
    """What each expert of a list reads of the real tokens, by its call."""
    seen: list[Any] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        model(**given)
    handle.remove()
    hidden, chosen, _ = seen[0]
    real = given["attention_mask"].reshape(-1).bool()
    by_expert = {e: chosen[:, 0, e].bool() & real for e in range(chosen.shape[2])}
    return {e: hidden[rows].double().numpy() for e, rows in by_expert.items()}


def test_padding_is_in_no_expert_of_switch() -> None:
    model, given = switch(), batch(1)
    given["decoder_input_ids"] = given["input_ids"][:, :4]
    name = "encoder.block.1.layer.1.mlp.experts"
    rows = rows_of_switch(model, name, given)
    recording = normprobe.record(model, [given])
    experts = recording.experts
    read = experts[(experts["layer"] == name) & (experts["site"] == "input")].set_index("expert")
    for expert, own in rows.items():
        assert read["tokens"][expert] == len(own)
        if len(own):
            np.testing.assert_allclose(read["variance"][expert], own.var(), rtol=1e-6)
            np.testing.assert_allclose(read["mean"][expert], own.mean(), rtol=0, atol=1e-6)
    ledger = recording.ledger.set_index("layer")
    own = ledger[ledger["expert_of"] == name]
    ran = own[own["status"] == "fired"]
    assert ran["aligned"].all()
    assert (ran["masked_by"] == "attention_mask").all()
    assert (ran["reason"] == "").all()
    assert set(experts["site"]) == {"input", "intermediate", "output"}


def test_the_samples_of_an_expert_are_those_of_the_layer_before_it() -> None:
    model, given = switch(), batch(1)
    given["decoder_input_ids"] = given["input_ids"][:, :4]
    recording = normprobe.record(model, [given], samples="all")
    samples = recording.samples[recording.samples["site"] == "input"]
    name = "encoder.block.1.layer.1.mlp"
    keys = ["example", "position"]
    routed = samples[samples["layer"] == f"{name}.router.classifier"].set_index(keys)["mean"]
    inside = samples[samples["layer"].str.startswith(f"{name}.experts") & samples["layer"].str.endswith("wi")]
    assert len(inside) == len(routed) == 22
    pd.testing.assert_series_equal(
        inside.set_index(keys)["mean"].sort_index(), routed.sort_index(), rtol=1e-5, check_names=False
    )


def test_as_many_rows_as_examples_are_no_batch() -> None:
    def choose(rows: torch.Tensor) -> torch.Tensor:
        chosen = torch.zeros(len(rows), dtype=torch.long)
        chosen[:3] = 1  # three tokens, all of the first example
        return chosen

    mask = torch.ones(3, 5, dtype=torch.long)
    mask[0, 2:] = 0
    for x in (torch.randn(3, 5, 4), torch.randn(1, 3, 4)):
        given = {"x": x, "attention_mask": mask[: len(x), : x.shape[1]]}
        recording = normprobe.record(ListOfExperts(2, choose), [given])
        row = recording.ledger.set_index("layer").loc["experts.1"]
        assert not row["aligned"]
        assert row["rows"] == 3
        assert "numbered within the layer" in row["reason"]


def test_a_batch_that_every_expert_reads_whole_is_aligned() -> None:
    class All(ListOfExperts):
        def forward(self, x: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
            return sum(expert(self.norm(x)) for expert in self.experts)  # type: ignore[return-value]

    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    recording = normprobe.record(All(3), [{"x": torch.randn(2, 4, 4), "attention_mask": mask}])
    own = recording.ledger[recording.ledger["expert_of"] != ""]
    assert own["aligned"].all()
    assert (own["rows"] == 5).all()
    assert (recording.experts.query("site == 'input'")["tokens"] == 5).all()


def test_an_expert_that_is_called_with_other_numbers_of_rows_in_one_forward_is_measured_whole() -> None:
    class Twice(ListOfExperts):
        def forward(self, x: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
            rows = x.reshape(-1, 4)
            self.norm(x)
            return torch.cat(
                [self.experts[0](rows[:2]), self.experts[0](rows[2:]), self.experts[1](rows[:1])]
            )

    recording = normprobe.record(Twice(2), [{"x": torch.randn(2, 5, 4)}])
    assert recording.experts.query("site == 'input'")["tokens"].tolist() == [10, 1]


def test_lists_merge_and_an_expert_that_never_ran_is_a_row() -> None:
    torch.manual_seed(0)
    model, data = ListOfExperts(3, lambda rows: torch.arange(len(rows)) % 2), torch.randn(4, 6, 4)
    whole = normprobe.record(model, [{"x": data}])
    parts = [normprobe.record(model, [{"x": part}]) for part in (data[:1], data[1:])]
    merged = normprobe.merge(*parts)
    pd.testing.assert_frame_equal(merged.experts, whole.experts, rtol=1e-6, atol=1e-6)
    read = whole.experts.query("site == 'input'")
    assert read["tokens"].tolist() == [12, 12, 0]
    assert read["mean"].isna().tolist() == [False, False, True]
    assert whole.expert_features.query("expert == 2")["count"].tolist() == [0] * 8
