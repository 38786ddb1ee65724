"""Experts that one weight holds, measured one by one, against what each one's own products read and give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import normprobe
from tests.helpers.expert_models import DECORATED, OTHERS, batch, dbrx, gpt_oss, jetmoe, llama4, mixtral
from tests.helpers.expert_oracle import check_experts, expert_rows

SITES = ["input", "intermediate", "output"]


def holders(model: Any, last: str = "down_proj") -> dict[str, str]:
    """The modules of experts of a model, and the name of their last weight."""
    return {name: last for name, _ in model.named_modules() if name.endswith(".experts")}


def measured(model: Any, batches: list[dict[str, Any]], **options: Any) -> normprobe.Recording:
    with torch.no_grad(), normprobe.Probe(model, experts=True, **options) as probe:
        for each in batches:
            model(**each)
    return probe.recording


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("name", DECORATED)
def test_each_expert_is_what_its_own_products_show(name: str, implementation: str) -> None:
    model = DECORATED[name]()
    model.set_experts_implementation("eager")
    batches = [batch(1), batch(2, left=True), {"input_ids": batch(3)["input_ids"]}]
    rows = expert_rows(model, batches, holders(model))
    model.set_experts_implementation(implementation)
    recording = measured(model, batches)
    table = recording.experts
    # Copies of the weights show no product: that is declared, and the rest measured.
    sites = ["input"] if implementation == "batched_mm" else SITES
    assert table["site"].unique().tolist() == sites
    assert {key for key in rows if key[1] not in sites} | set(zip(*_keys(table), strict=True)) >= set(rows)
    # Other layers than the first of this model read what its experts gave, in another order of sums.
    near = 1e-6 if implementation == "eager" else 1e-4
    check_experts(
        table, recording.expert_features, {k: v for k, v in rows.items() if k[1] in sites}, rtol=near
    )
    reasons = recording.ledger.set_index("layer")["reason"]
    told = reasons[[layer for layer in reasons.index if layer.endswith(".experts.down_proj")]]
    assert told.str.contains("is in the table of experts").all()
    assert told.str.contains("was not seen").all() == (implementation == "batched_mm")


def _keys(table: pd.DataFrame) -> list[pd.Series]:
    return [table[name] for name in ("layer", "site", "expert")]


def test_dbrx_takes_slices_of_one_matrix() -> None:
    model, batches = dbrx(), [batch(1), batch(2)]
    rows = expert_rows(model, batches, holders(model, "mlp.w2"))
    recording = measured(model, batches)
    check_experts(recording.experts, recording.expert_features, rows)
    names = recording.ledger["layer"].tolist()
    assert "transformer.blocks.0.ffn.experts.mlp.w1" in names
    widths = recording.ledger.set_index("layer")["n_features"]
    assert widths["transformer.blocks.0.ffn.experts.mlp.v1"] == 32
    assert widths["transformer.blocks.0.ffn.experts.mlp.w2"] == 48


def test_llama4_scales_what_experts_read_and_gives_the_others_zeros() -> None:
    model, given = llama4(), batch(1)
    seen: dict[str, torch.Tensor] = {}
    name = "model.layers.0.feed_forward"
    module = model.get_submodule(name)
    handle = module.router.register_forward_hook(
        lambda _, args, output: seen.update(x=args[0].clone(), scores=output[0].clone())
    )
    recording = measured(model, [given])
    handle.remove()
    real = given["attention_mask"].reshape(-1).bool()
    table = recording.experts
    table = table[table["layer"] == f"{name}.experts"]
    read = table[table["site"] == "input"].set_index("expert")
    for expert in range(4):
        chosen = real & (seen["scores"][:, expert] != 0)
        rows = (seen["x"] * seen["scores"][:, expert, None])[chosen].double().numpy()
        assert read["tokens"][expert] == len(rows)
        np.testing.assert_allclose(read["variance"][expert], rows.var(), rtol=1e-6)
    assert table[table["site"] == "output"]["tokens"].tolist() == read["tokens"].tolist()
    reason = recording.ledger.set_index("layer")["reason"][f"{name}.experts.gate_up_proj"]
    assert "multiplied by the router's score" in reason


def test_jetmoe_is_given_rows_in_the_order_of_experts() -> None:
    model, given = jetmoe(), {"input_ids": batch(1)["input_ids"]}
    name, seen = "model.layers.0.mlp.input_linear", []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args))
    recording = measured(model, [given])
    handle.remove()
    table = recording.experts[recording.experts["layer"] == name]
    rows, counts = seen[0]
    for site, count in ((site, 4) for site in ("input", "output")):
        assert len(table[table["site"] == site]) == count
    parts = rows.detach().double().split(counts)
    read = table[table["site"] == "input"]
    assert read["tokens"].tolist() == counts
    for part, variance in zip(parts, read["variance"], strict=True):
        np.testing.assert_allclose(variance, part.numpy().var(), rtol=1e-6)
    assert read["weight"].isna().all()


def test_where_padding_cannot_be_told_it_is_said() -> None:
    recording = measured(jetmoe(), [batch(1)])
    reasons = recording.ledger.set_index("layer")["reason"]
    assert "do not fit attention_mask (3, 10): unmasked" in reasons["model.layers.0.mlp.input_linear"]


@pytest.mark.parametrize("name", [*DECORATED, *OTHERS])
def test_any_split_of_the_data_gives_the_same(name: str) -> None:
    model = {**DECORATED, **OTHERS}[name]()
    batches = [batch(1), batch(2), batch(3)]
    if name == "jetmoe":
        batches = [{"input_ids": each["input_ids"]} for each in batches]
    whole = measured(model, batches, part="whole")
    parts = [measured(model, batches[:1], part="a"), measured(model, batches[1:], part="b")]
    for merged in (normprobe.merge(*parts), normprobe.merge(*parts[::-1])):
        pd.testing.assert_frame_equal(merged.experts, whole.experts, rtol=1e-6, atol=1e-7)
        pd.testing.assert_frame_equal(merged.expert_features, whole.expert_features, rtol=1e-6, atol=1e-7)


def test_weights_are_those_of_the_router() -> None:
    model, given = mixtral(), batch(1)
    seen: list[Any] = []
    module = model.get_submodule("model.layers.1.mlp.experts")
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args))
    table = measured(model, [given]).experts
    handle.remove()
    _, index, weight = seen[0]
    real = given["attention_mask"].reshape(-1).bool()
    own = table[(table["layer"] == "model.layers.1.mlp.experts") & (table["site"] == "input")]
    for expert, mean in zip(own["expert"], own["weight"], strict=True):
        chosen = (index == expert) & real[:, None]
        np.testing.assert_allclose(mean, weight[chosen].double().mean(), rtol=1e-6)
    np.testing.assert_allclose(own["share"].sum(), 1.0)
    share = own["share"].to_numpy()
    np.testing.assert_allclose(own["entropy"], -(share * np.log(share)).sum())
    np.testing.assert_allclose(own["entropy_max"], np.log(4))
    assert own["router"].unique().tolist() == ["model.layers.1.mlp.gate"]
    assert int(real.sum()) * 2 == own["tokens"].sum()


def test_generating_measures_the_prompt_and_every_token() -> None:
    model, given = mixtral(), batch(1, examples=2, left=True)
    seen: list[int] = []
    module = model.get_submodule("model.layers.0.mlp.experts")
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with normprobe.Probe(model, experts=True) as probe:
        model.generate(**given, max_new_tokens=7, min_new_tokens=7, do_sample=False, pad_token_id=0)
    handle.remove()
    table = probe.recording.experts
    tokens = table[table["layer"] == "model.layers.0.mlp.experts"].groupby("site")["tokens"].sum()
    # The prompt holds three positions of padding.
    assert (tokens == 2 * (sum(seen) - 3)).all()
    assert len(seen) == 7


def test_a_token_that_names_an_expert_twice_is_two_rows() -> None:
    model = mixtral()
    gate = model.get_submodule("model.layers.0.mlp.gate")

    def twice(_: Any, args: Any, output: Any) -> Any:
        logits, weights, index = output
        return logits, weights, torch.zeros_like(index)

    gate.register_forward_hook(twice)
    table = measured(model, [batch(1)]).experts
    own = table[(table["layer"] == "model.layers.0.mlp.experts") & (table["site"] == "input")]
    assert own["tokens"].tolist() == [2 * 22, 0, 0, 0]
    assert own["entropy"].iloc[0] == 0


def test_rows_of_other_processes_experts_are_none_of_these() -> None:
    model = mixtral()
    model.set_experts_implementation("eager")
    for name, module in model.named_modules():
        if name.endswith("experts"):
            module.register_forward_pre_hook(
                lambda _, args: (args[0], torch.where(args[1] == 3, 4, args[1]), args[2])
            )
    table = measured(model, [batch(1)]).experts
    assert (table[table["expert"] == 3]["tokens"] == 0).all()


def test_windows_hold_their_own_experts() -> None:
    model, batches = gpt_oss(), [batch(1), batch(2), batch(3), batch(4)]
    recording = measured(model, batches, window=2, part="run")
    whole = measured(model, batches, part="run")
    pd.testing.assert_frame_equal(recording.experts, whole.experts, rtol=1e-6, atol=1e-7)
    first = measured(model, batches[:2], part="run")
    pd.testing.assert_frame_equal(recording.window(0).experts, first.experts, rtol=1e-6, atol=1e-7)
    over_time = recording.over_time("experts")
    assert over_time.groupby("window")["tokens"].sum().sum() == whole.experts["tokens"].sum()


def test_nothing_is_measured_that_nobody_asked_for(tmp_path: Any) -> None:
    model = mixtral()
    recording = normprobe.record(model, [batch(1)])
    assert recording.experts.empty
    assert recording.expert_features.empty
    reason = recording.ledger.set_index("layer")["reason"]["model.layers.0.mlp.experts.down_proj"]
    assert reason.endswith("their products are not probed without experts=True")
    assert "experts.csv" not in {path.name for path in recording.to_csv(tmp_path)}


def test_outputs_and_hooks_are_as_without_a_probe() -> None:
    model, given = mixtral(), batch(1)
    with torch.no_grad():
        bare = model(**given).logits
        with normprobe.Probe(model, experts=True):
            probed = model(**given).logits
    assert torch.equal(bare, probed)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_file_holds_experts(tmp_path: Any) -> None:
    recording = measured(mixtral(), [batch(1)])
    loaded = normprobe.load(recording.save(tmp_path / "run.normprobe"))
    pd.testing.assert_frame_equal(loaded.experts, recording.experts)
    pd.testing.assert_frame_equal(loaded.expert_features, recording.expert_features)
    written = {path.name for path in loaded.to_csv(tmp_path / "csv")}
    assert "experts.csv" in written


def test_filters_leave_experts_out() -> None:
    recording = measured(mixtral(), [batch(1)], layers="model.layers.1.*")
    assert recording.experts["layer"].unique().tolist() == ["model.layers.1.mlp.experts"]


def test_gradients_and_experts_together() -> None:
    model, given = mixtral(), batch(1)
    with normprobe.Probe(model, experts=True, gradients=True) as probe:
        model(**given).logits.square().mean().backward()
    bare = measured(model, [given])
    pd.testing.assert_frame_equal(probe.recording.experts, bare.experts, rtol=1e-6, atol=1e-7)


def test_half_precision_is_summed_in_double() -> None:
    model, batches = mixtral().to(torch.bfloat16), [batch(1)]
    model.set_experts_implementation("eager")
    rows = expert_rows(model, batches, holders(model))
    recording = measured(model, batches)
    check_experts(recording.experts, recording.expert_features, rows)


def test_parts_without_experts_do_not_pass_for_parts_with_them() -> None:
    model, given = mixtral(), [batch(1)]
    with pytest.raises(normprobe.RecordingError, match="option 'experts' cannot be merged: False, True"):
        normprobe.merge(measured(model, given), normprobe.record(model, given))


def test_arguments_may_come_by_name_in_any_order() -> None:
    model, given = mixtral(), [batch(1)]
    expected = measured(model, given, part="a")
    for _, module in model.named_modules():
        if type(module).__name__ == "MixtralExperts":
            own = module.forward

            def by_name(top_k_weights: Any, top_k_index: Any, hidden_states: Any, own: Any = own) -> Any:
                return own(hidden_states, top_k_index, top_k_weights)

            module.forward = by_name
    for block in model.model.layers:

        def route(hidden_states: torch.Tensor, mlp: Any = block.mlp) -> torch.Tensor:
            rows = hidden_states.view(-1, 32)
            _, weights, index = mlp.gate(rows)
            made = mlp.experts(top_k_weights=weights, top_k_index=index, hidden_states=rows)
            return made.reshape(hidden_states.shape)

        block.mlp.forward = route
    found = measured(model, given, part="a")
    pd.testing.assert_frame_equal(found.experts, expected.experts, rtol=1e-6, atol=1e-7)


def test_a_call_of_another_form_is_declared() -> None:
    model = mixtral()
    module = model.get_submodule("model.layers.0.mlp.experts")
    own = module.forward
    module.forward = lambda every: own(*every)
    for block in model.model.layers[:1]:
        experts = block.mlp.experts

        def route(hidden_states: torch.Tensor, mlp: Any = block.mlp, experts: Any = experts) -> torch.Tensor:
            rows = hidden_states.view(-1, 32)
            _, weights, index = mlp.gate(rows)
            return experts([rows, index, weights]).reshape(hidden_states.shape)

        block.mlp.forward = route
    recording = measured(model, [batch(1)])
    assert recording.experts["layer"].unique().tolist() == ["model.layers.1.mlp.experts"]
    reason = recording.ledger.set_index("layer")["reason"]["model.layers.0.mlp.experts.gate_up_proj"]
    assert "its call does not say which rows go to which expert" in reason
