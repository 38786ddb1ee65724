"""Groups of samples: each is exact, whatever padding, batches and kernel; together they are the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

import normprobe
from normprobe import NormprobeError, RecordingError
from tests.helpers.oracle import RELATIVE, rows, tensors, two_pass, worst

Batch = dict[str, Tensor]
TOTALS = ("calls", "n_samples", "masked", "nonfinite", "nonfinite_masked")


def llama(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 60}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    ids = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids, **options)).eval()


def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 60}
    return BertModel(BertConfig(**sizes, num_attention_heads=4)).eval()


def batches(padding: str = "", seed: int = 0) -> list[Batch]:
    """Ragged batches; of each size several, so that the extension measures most of them alone."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size, time in ((4, 9), (4, 9), (4, 9), (2, 5), (3, 1), (4, 9), (1, 4), (4, 9)):
        ids = torch.randint(4, 60, (size, time), generator=generator)
        ids[:, 0] = 1
        batch = {"input_ids": ids}
        if padding:
            lengths = torch.randint(1, time + 1, (size, 1), generator=generator)
            at = torch.arange(time)
            real = at < lengths if padding == "right" else at >= time - lengths
            batch["attention_mask"] = real.long()
            batch["input_ids"] = torch.where(real, ids, 0)
        made.append(batch)
    return made


def real(batch: Batch) -> np.ndarray:
    mask = batch.get("attention_mask")
    return np.ones(tuple(batch["input_ids"].shape), bool) if mask is None else mask.bool().numpy()


def first(batch: Batch) -> np.ndarray:
    """Labels as the rule `first` has them."""
    mask = real(batch)
    at = np.arange(mask.shape[1]) == mask.argmax(1)[:, None]
    return np.where(at & mask, "first", "rest")


def third(batch: Batch) -> np.ndarray:
    """Three groups, by the id."""
    return batch["input_ids"].numpy() % 3


def check(model: nn.Module, recording: normprobe.Recording, data: list[Batch], labels: Any) -> int:
    """Hold every group of every layer that reads (batch, positions, ...) against the oracle; how many."""
    layers = recording.layers.set_index(["layer", "site", "group"]).sort_index()
    features = recording.features.set_index(["layer", "site", "group"]).sort_index()
    names = recording.ledger["layer"].tolist()
    seen = tensors(model, names, lambda: [model(**batch) for batch in data])
    held = 0
    for (name, site), calls in seen.items():
        shapes = [tuple(batch["input_ids"].shape) for batch in data]
        if [tuple(call.shape[:2]) for call in calls] != shapes:
            continue
        for group in {str(label) for batch in data for label in labels(batch).reshape(-1)}:
            inside = [(labels(batch).astype(str) == group) & real(batch) for batch in data]
            values = np.concatenate(
                [rows(call[torch.from_numpy(at)]) for call, at in zip(calls, inside, strict=True)]
            )
            truth, whole = two_pass(values), two_pass(values.reshape(-1))
            own, of_features = layers.loc[(name, site, group)], features.loc[(name, site, group)]
            assert worst(own["mean"], own["variance"], whole["mean"], whole["variance"]) < RELATIVE
            found = of_features["mean"].to_numpy(), of_features["variance"].to_numpy()
            assert worst(*found, truth["mean"], truth["variance"]) < RELATIVE
            assert of_features["count"].tolist() == truth["count"].tolist()
            assert of_features["max"].tolist() == truth["max"].tolist()
            assert own["min"] == whole["min"]
            within = np.mean([row.var() for row in values])
            assert own["within_sample_variance"] == pytest.approx(within, rel=1e-5)
            assert own["n_samples"] == sum(int(at.reshape(*at.shape, -1).sum()) for at in inside)
            held += 1
    return held


def whole_of(recording: normprobe.Recording) -> None:
    """What groups come to is the whole."""
    keys = ["layer", "site"]
    whole, apart = recording.ungrouped.layers.set_index(keys), recording.layers
    together = apart.groupby(keys, sort=False)[["n_samples", "masked", "nonfinite", "nonfinite_masked"]].sum()
    pd.testing.assert_frame_equal(together, whole[together.columns])
    np.testing.assert_array_equal(apart.groupby(keys, sort=False)["max"].max(), whole["max"])
    features = recording.ungrouped.features.set_index([*keys, "feature"])
    parts = recording.features.assign(total=lambda f: f["mean"].fillna(0) * f["count"])
    summed = parts.groupby([*keys, "feature"], sort=False)[["count", "total"]].sum()
    assert summed["count"].tolist() == features["count"].tolist()
    scale = np.sqrt(features["variance"] + features["mean"] ** 2)
    off = abs(summed["total"] / summed["count"] - features["mean"])
    assert (off.fillna(0) <= 1e-12 * scale.fillna(0) + 1e-300).all()


@pytest.mark.parametrize("padding", ["", "left", "right"])
@pytest.mark.parametrize("make", [bert, llama])
def test_each_group_is_exact(make: Any, padding: str) -> None:
    model, data = make(), batches(padding)
    recording = normprobe.record(model, data, groups=lambda args, kwargs: third(kwargs))
    assert check(model, recording, data, third) > 60
    whole_of(recording)
    recording = normprobe.record(model, data, groups="first")
    assert check(model, recording, data, first) > 40
    whole_of(recording)


@pytest.mark.parametrize("padding", ["", "left"])
def test_the_whole_is_what_a_probe_without_groups_gives(padding: str) -> None:
    model, data = llama(), batches(padding)
    plain = normprobe.record(model, data, part="a")
    whole = normprobe.record(model, data, part="a", groups="special").ungrouped
    for name in ("layers", "features", "samples", "ledger"):
        # Of float32 each group is summed about means of its own, which moves the last digits.
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(plain, name), rtol=1e-5, atol=1e-6)
    assert whole.samples["example"].equals(plain.samples["example"])
    assert whole.meta["options"] == plain.meta["options"]
    assert plain.ungrouped is plain
    double = model.double()
    plain = normprobe.record(double, data, part="a")
    whole = normprobe.record(double, data, part="a", groups="first").ungrouped
    pd.testing.assert_frame_equal(whole.features, plain.features, rtol=1e-11, atol=1e-14)
    pd.testing.assert_frame_equal(whole.samples, plain.samples, rtol=1e-12, atol=0)
    assert whole.values("model.norm", "input").tolist() == plain.values("model.norm", "input").tolist()


def test_without_groups_no_table_knows_of_them(tmp_path: Path) -> None:
    recording = normprobe.record(llama(), batches(), part="a")
    assert "group" not in {*recording.layers, *recording.features}
    assert "groups" not in recording.meta["options"]
    assert b"group_" not in recording.save(tmp_path / "a").read_bytes()


def test_special_tokens_are_those_of_the_configuration() -> None:
    model, data = llama(), batches("right")
    recording = normprobe.record(model, data, groups="special")

    def special(batch: Batch) -> np.ndarray:
        return np.where(np.isin(batch["input_ids"], [0, 1, 2, 3]), "special", "other")

    assert check(model, recording, data, special) == 80
    layers = recording.layers.query("layer == 'model.norm' and site == 'input'").set_index("group")
    padding = sum(int((~real(batch)).sum()) for batch in data)
    assert layers["masked"].to_dict() == {"other": 0, "special": padding}


def test_a_tokenizer_says_what_its_model_does_not() -> None:
    class Tokenizer:
        all_special_ids = (0, 1, 7)

    with pytest.raises(NormprobeError, match="BertModel names only its padding; give groups=tokenizer"):
        normprobe.Probe(bert(), groups="special")
    with pytest.raises(NormprobeError, match="names none"):
        normprobe.Probe(nn.Linear(3, 3), groups="special")
    model, data = bert(), batches()
    recording = normprobe.record(model, data, groups=Tokenizer())
    special = {"special": sum(int(np.isin(batch["input_ids"], [0, 1, 7]).sum()) for batch in data)}
    held = recording.layers.query("layer == 'embeddings.LayerNorm' and site == 'input'")
    assert held.set_index("group")["n_samples"]["special"] == special["special"]


def test_a_pooler_reads_positions_of_no_group_and_the_ledger_says_so() -> None:
    recording = normprobe.record(bert(), batches(), groups="first")
    assert recording["pooler.dense"].ledger["reason"] == (
        "samples at its input and output are of group (none): which are of which group cannot be told of them"
    )
    assert set(recording.layers.query("layer == 'pooler.dense'")["group"]) == {"(none)"}
    assert recording["encoder.layer.0.output.dense"].ledger["reason"] == ""


def test_labels_of_examples_are_those_of_every_layer() -> None:
    model, data = bert(), batches("left")
    classes = {4: [1, 0, 1, 0], 2: [0, 10], 3: [2, 2, None], 1: [2]}
    recording = normprobe.record(model, data, groups=lambda args, kwargs: classes[len(kwargs["input_ids"])])
    pooler = recording.layers.query("layer == 'pooler.dense' and site == 'input'").set_index("group")
    assert pooler["n_samples"].to_dict() == {"0": 11, "1": 10, "2": 3, "10": 1, "(none)": 1}
    assert list(pooler.index) == ["0", "1", "2", "10", "(none)"]
    assert "of group (none): their label is None" in recording["pooler.dense"].ledger["reason"]
    whole_of(recording)


def test_channels_are_told_apart_by_example() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.GroupNorm(2, 6)).eval()
    data = [torch.randn(4, 3, 18, 18) for _ in range(3)]
    kinds = np.array(["cat", "dog", "cat", "cat"])
    recording = normprobe.record(model, data, groups=lambda args, kwargs: kinds)
    whole_of(recording)
    seen = tensors(model, ["1", "3"], lambda: [model(x) for x in data])
    for place, calls in seen.items():
        for kind in ("cat", "dog"):
            values = rows(torch.cat([call[torch.from_numpy(kinds == kind)] for call in calls]), 1)
            truth = two_pass(values)
            found = recording.features.set_index(["layer", "site", "group"]).loc[(*place, kind)]
            assert (
                worst(
                    found["mean"].to_numpy(), found["variance"].to_numpy(), truth["mean"], truth["variance"]
                )
                < RELATIVE
            )


def test_what_was_generated_is_told_from_its_prompt() -> None:
    model, prompt = llama(), torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]])
    with normprobe.Probe(model, groups="generated") as probe:
        model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    held = probe.recording.layers.query("layer == 'model.norm' and site == 'output'").set_index("group")
    assert held["n_samples"].to_dict() == {"generated": 6, "prompt": 8}
    assert held["calls"].to_dict() == {"generated": 3, "prompt": 1}
    # A whole forward without a cache is a prompt.
    recording = normprobe.record(model, {"input_ids": prompt[:, :1]}, groups="generated")
    assert set(recording.layers["group"]) == {"prompt"}


def test_modalities_are_those_of_the_configuration() -> None:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 60}
    text |= {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_id=9)
    model = LlavaForConditionalGeneration(config).eval()
    batch = {"input_ids": torch.tensor([[1, 9, 9, 9, 9, 5], [1, 4, 9, 9, 9, 9]])}
    recording = normprobe.record(model, {**batch, "pixel_values": torch.randn(2, 3, 8, 8)}, groups="modality")
    held = recording.layers.query("layer == 'model.language_model.norm' and site == 'input'")
    assert held.set_index("group")["n_samples"].to_dict() == {"image": 8, "text": 4}
    with pytest.raises(NormprobeError, match=r"image_token_id.*LlamaForCausalLM, which has none"):
        normprobe.Probe(llama(), groups="modality")


def test_the_first_position_of_images_is_their_class_token() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).eval()
    recording = normprobe.record(model, torch.randn(3, 3, 8, 8), groups="first")
    held = recording.layers.query("layer == 'layernorm' and site == 'input'").set_index("group")
    assert held["n_samples"].to_dict() == {"first": 3, "rest": 12}


def test_each_side_of_an_encoder_decoder_has_groups_of_its_own() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = T5ForConditionalGeneration(T5Config(**sizes, **ids)).eval()
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "decoder_input_ids": torch.tensor([[0, 5, 6], [0, 7, 8]]),
    }
    recording = normprobe.record(model, batch, groups="special")
    sides = {"encoder": {"other": 5, "special": 2}, "decoder": {"other": 4, "special": 2}}
    for side, counts in sides.items():
        held = recording.layers[recording.layers["layer"] == f"{side}.final_layer_norm"]
        assert held[held["site"] == "input"].set_index("group")["n_samples"].to_dict() == counts
    crossing = recording.layers[recording.layers["layer"].str.endswith("EncDecAttention.k")]
    assert crossing[crossing["site"] == "input"].set_index("group")["n_samples"].to_dict() == sides["encoder"]
    first = normprobe.record(model, batch, groups="first").layers
    assert set(first[first["group"] == "first"]["n_samples"]) == {2}


def test_a_new_group_may_come_at_any_forward() -> None:
    model, data = bert(), batches()[:3]
    count = iter(range(3))

    def groups(args: Any, kwargs: Any) -> list[str]:
        return ["ab", "ac", "ad"][next(count)][:2].split() * 4

    recording = normprobe.record(model, data, groups=groups)
    assert recording.layers.groupby("group")["calls"].max().to_dict() == {"ab": 1, "ac": 1, "ad": 1}
    whole_of(recording)


def test_numbers_that_are_not_finite_count_in_their_group() -> None:
    model, data = bert(), batches("right")
    model.embeddings.word_embeddings.weight.data[1, 3] = torch.inf
    recording = normprobe.record(model, data, groups="first")
    held = recording.layers.query("layer == 'embeddings.LayerNorm' and site == 'input'").set_index("group")
    assert held["nonfinite"].to_dict() == {"first": sum(len(batch["input_ids"]) for batch in data), "rest": 0}
    assert (held.loc["first", "nonfinite_call"], held.loc["first", "nonfinite_example"]) == (0, 0)
    whole_of(recording)
    plain = normprobe.record(model, data).layers
    whole = recording.ungrouped.layers
    assert whole[["nonfinite", "nonfinite_position"]].equals(plain[["nonfinite", "nonfinite_position"]])


def test_extremes_have_a_holder_in_each_group() -> None:
    model, data = llama(), batches("left")
    recording = normprobe.record(model, data, groups="first")
    layers = recording.layers
    assert set(layers[layers["group"] == "first"]["max_position"]) == {0}
    assert 0 not in set(layers[layers["group"] == "rest"]["max_position"])
    held = ["max", "max_example", "max_position", "max_feature", "min", "min_example", "min_position"]
    pd.testing.assert_frame_equal(
        recording.ungrouped.layers[held], normprobe.record(model, data).layers[held]
    )


def test_groups_are_saved_and_merged_by_name(tmp_path: Path) -> None:
    model, data = llama(), batches("right")
    whole = normprobe.record(model, data, groups="first")
    parts = [normprobe.record(model, some, groups="first") for some in (data[:3], data[3:4], data[4:])]
    loaded = [normprobe.load(part.save(tmp_path / str(at))) for at, part in enumerate(parts)]
    for part, again in zip(parts, loaded, strict=True):
        pd.testing.assert_frame_equal(again.layers, part.layers)
        pd.testing.assert_frame_equal(again.features, part.features)
    merged = normprobe.merge(*loaded[::-1])
    numbers = ["layer", "site", "group", "feature", "count", "mean", "variance", "min", "max", "weight"]
    pd.testing.assert_frame_equal(merged.features[numbers], whole.features[numbers], rtol=1e-5, atol=1e-7)
    counts = ["layer", "site", "group", "calls", "n_samples", "masked", "min", "max"]
    pd.testing.assert_frame_equal(merged.layers[counts], whole.layers[counts])
    whole_of(merged)
    plain = normprobe.record(model, data)
    with pytest.raises(RecordingError, match=r"'groups'.*or merge recording\.ungrouped of each"):
        normprobe.merge(parts[0], plain)
    assert normprobe.merge(parts[0].ungrouped, plain).layers["n_samples"].max() > 0


def test_windows_have_groups_of_their_own(tmp_path: Path) -> None:
    model, data = bert(), batches()
    with normprobe.Probe(model, groups="first", window=2, out=tmp_path) as probe:
        for batch in data:
            model(**batch)
    whole = normprobe.record(model, data, groups="first")
    recording = normprobe.load(tmp_path)
    assert len(recording.windows) == 4
    counts = ["layer", "site", "group", "calls", "n_samples", "min", "max"]
    for found in (recording, probe.recording):
        pd.testing.assert_frame_equal(found.layers[counts], whole.layers[counts])
    over_time = recording.over_time("layers")
    assert (
        over_time.groupby("group")["n_samples"].sum().equals(whole.layers.groupby("group")["n_samples"].sum())
    )
    assert "group" not in recording.ungrouped.over_time("layers")


def test_a_run_goes_on_with_the_groups_that_it_had(tmp_path: Path) -> None:
    model, data = bert(), batches()[:4]
    with normprobe.Probe(model, groups="first", window=2, out=tmp_path, part="a") as probe:
        for batch in data:
            model(**batch)
    with pytest.raises(NormprobeError, match="are of groups 'first', this probe of None"):
        normprobe.Probe(model, window=2, out=tmp_path, part="a", resume_from=3)
    probe = normprobe.Probe(model, groups="first", window=2, out=tmp_path, part="a", resume_from=3)
    with probe:
        for batch in data:
            model(**batch)
    held = probe.recording.layers.query("layer == 'pooler.dense' or layer == 'embeddings.LayerNorm'")
    assert set(held["calls"]) == {8}


def test_gradients_are_told_apart_too() -> None:
    model, batch = llama(), batches("left")[0]
    with normprobe.Probe(model, groups="first", gradients=True) as probe:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    held = probe.recording.layers.query("layer == 'model.norm'").set_index(["site", "group"])
    assert held.loc[("input_gradient", "first"), "n_samples"] == 4
    whole_of(probe.recording)
    assert len(probe.recording.findings()) >= 0


def test_csv_files_have_a_row_for_each_group(tmp_path: Path) -> None:
    recording = normprobe.record(llama(), batches(), groups="first")
    recording.to_csv(tmp_path)
    found = pd.read_csv(tmp_path / "layers.csv")
    assert list(found)[3:5] == ["site", "group"]
    assert found["group"].value_counts().to_dict() == {"first": 40, "rest": 40}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ("firsts", "one of 'special', 'first', 'modality', 'generated', a tokenizer, or a function"),
        (3, "got 3"),
        (dict, "got <class 'dict'>"),
    ],
)
def test_what_is_no_rule_is_refused(groups: Any, says: str) -> None:
    with pytest.raises(NormprobeError, match=says):
        normprobe.Probe(bert(), groups=groups)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([1, 2], r"labels of shape \(2,\) for a batch of 4"),
        (torch.zeros(4, 9, 2).long(), r"labels of shape \(4, 9, 2\)"),
        ([0.5] * 4, "the label 0.5 of type float"),
        (7, "gave int; a tensor, an array or a list"),
        (None, "gave NoneType"),
    ],
)
def test_labels_of_another_form_end_the_forward(labels: Any, says: str) -> None:
    model = bert()
    with (
        pytest.raises(NormprobeError, match=says),
        normprobe.Probe(model, groups=lambda a, k: labels) as probe,
    ):
        model(**batches()[0])
    assert probe.recording.meta["forwards"] == 0


def test_more_groups_than_can_be_meant_are_refused() -> None:
    ids = iter(range(10**6))
    with pytest.raises(NormprobeError, match="more than 1,024 different labels"):
        normprobe.record(bert(), batches() * 50, groups=lambda a, k: [next(ids) for _ in k["input_ids"]])


def test_outputs_are_those_of_the_bare_model() -> None:
    model, batch = llama(), batches("left")[0]
    bare = model(**batch).logits
    with normprobe.Probe(model, groups="first"):
        assert torch.equal(model(**batch).logits, bare)
