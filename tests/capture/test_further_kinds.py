"""Convolutions, activations, embeddings and attention, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import NoLayersError, NoSamplesError
from normprobe.kernels import dispatch
from tests.helpers.oracle import RELATIVE
from tests.helpers.tiny_models import batch, mask, tiny


@pytest.fixture(params=["c", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of the kernels in turn."""
    monkeypatch.setenv("NORMPROBE_KERNEL", request.param)
    dispatch.compiled.cache_clear()
    yield request.param
    monkeypatch.undo()
    dispatch.compiled.cache_clear()


class Images(nn.Module):
    """Convolutions of each kind, with activations between, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.up, self.soft = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.GELU()
        self.head, self.last = nn.Linear(4, 5), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 5)."""
        x = self.soft(self.up(self.act(self.norm(self.conv(x)))))
        return self.last(self.head(x.mean((2, 3))))


def seen(model: nn.Module, names: list[str], run: Any) -> dict[tuple[str, str], Tensor]:
    """What these modules read and write, as it was at the time."""
    found: dict[tuple[str, str], Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name in names:
            handles += [
                module.register_forward_pre_hook(
                    lambda _, args, name=name: found.update({(name, "input"): args[0].clone()})
                ),
                module.register_forward_hook(
                    lambda _, args, out, name=name: found.update({(name, "output"): out.clone()})
                ),
            ]
    run()
    for handle in handles:
        handle.remove()
    return found


def hold(recording: normprobe.Recording, found: dict[tuple[str, str], Tensor], axis: dict[str, int]) -> None:
    """Compare each feature's moments with float64."""
    features = recording.features.set_index(["layer", "site"])
    for (name, site), tensor in found.items():
        rows = np.moveaxis(tensor.double().numpy(), axis.get(name, -1), -1)
        rows = rows.reshape(-1, rows.shape[-1])
        of = features.loc[[(name, site)]]
        np.testing.assert_allclose(of["variance"], rows.var(0), rtol=RELATIVE, atol=1e-15)
        np.testing.assert_allclose(of["mean"], rows.mean(0), rtol=0, atol=RELATIVE * np.abs(rows).max())


def test_convolutions_and_activations_of_images(kernel: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Images().eval(), torch.randn(4, 3, 6, 6)
    recording = normprobe.record(model, [x], kinds=("default", "conv", "activation"))
    kinds = recording.ledger.set_index("layer")["kind"].to_dict()
    assert kinds == {
        **{"conv": "conv", "norm": "batch_norm", "act": "activation", "up": "conv"},
        **{"soft": "activation", "head": "linear", "last": "activation"},
    }
    names = ["conv", "act", "up", "soft", "last"]
    with torch.no_grad():
        found = seen(model, names, lambda: model(x))
    hold(recording, found, {name: 1 for name in names if name != "last"})
    units = recording.ledger.set_index("layer")["sample_unit"]
    assert units[["conv", "act", "up", "soft"]].tolist() == ["example"] * 4
    assert units["last"] == "position"
    # The report is of Linears and norms; tables hold all.
    assert "(3 activation, 2 conv, 1 batch_norm, 1 linear)" in repr(recording)
    assert len(recording.findings()) == len(normprobe.record(model, [x]).findings())
    loaded = normprobe.load(recording.save(tmp_path / "run.normprobe"))
    pd.testing.assert_frame_equal(loaded.layers, recording.layers)
    recording.report(tmp_path / "report")


def test_one_dimension_and_no_batch() -> None:
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1))
    torch.manual_seed(0)
    x = torch.randn(4, 3, 12)
    recording = normprobe.record(model, [x], kinds=("conv", "activation"))
    with torch.no_grad():
        hold(recording, seen(model, ["0", "1", "2"], lambda: model(x)), {"0": 1, "1": 1, "2": 1})
    alone = normprobe.record(nn.Sequential(nn.Conv1d(3, 6, 3)), [x[0]], kinds="conv")
    assert alone.layers["n_features"].tolist() == [3, 6]


def test_activations_and_embeddings_of_a_transformer_leave_padding_out(kernel: str) -> None:
    model, given = tiny("bert"), batch("bert")
    recording = normprobe.record(model, [given], kinds=("activation", "embedding"))
    names = [name for name in recording.ledger["layer"] if "intermediate" in name or "word" in name]
    with torch.no_grad():
        found = seen(model, names, lambda: model(**given))
    real = mask("bert").bool()
    words = "embeddings.word_embeddings"
    found.pop((words, "input"))
    hold(recording, {key: tensor[real] for key, tensor in found.items()}, {})
    row = recording.ledger.set_index("layer").loc[words]
    assert row["status"] == "fired"
    assert row["reason"] == "its input holds ids, which are not measured"
    sites = recording.layers.set_index("layer").loc[[words], "site"].tolist()
    assert sites == ["output"]
    assert (recording.layers.set_index("layer").loc[names, "masked"] == (~real).sum().item()).all()


def test_what_is_not_elementwise_is_refused() -> None:
    class PairActivation(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., ::2] * x[..., 1::2]

    recording = normprobe.record(
        nn.Sequential(nn.Linear(4, 4), PairActivation()), [torch.randn(3, 4)], kinds="activation"
    )
    row = recording.ledger.iloc[0]
    assert (row["status"], row["reason"]) == (
        "refused",
        "its output has shape (3, 2) for an input of (3, 4): not elementwise",
    )


def test_a_function_in_place_is_measured_before_and_after() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), torch.randn(16, 8)
    for _ in range(2):
        recording = normprobe.record(model, [x, x], kinds="activation")
        share = recording.layers.set_index("site")["zero_fraction"]
        assert share["input"] == 0 < share["output"]


def test_of_further_kinds_alone_there_is_no_finding_and_no_report(tmp_path: Path) -> None:
    recording = normprobe.record(Images().eval(), [torch.randn(2, 3, 6, 6)], kinds="conv")
    assert repr(recording) == "<Recording: 2 layers (2 conv), 2 samples, 0 findings>"
    for verb in (recording.findings, recording.summary, lambda: recording.report(tmp_path)):
        with pytest.raises(NoSamplesError, match="only conv was measured"):
            verb()
    assert {path.name for path in recording.to_csv(tmp_path)} >= {"layers.csv", "features.csv"}


def test_kinds_are_what_is_measured() -> None:
    model = Images()
    assert {s.kind for s in kinds_of(model, None)} == {"linear", "batch_norm"}
    assert {s.kind for s in kinds_of(model, "conv")} == {"conv"}
    assert {s.kind for s in kinds_of(model, ["linear", "conv"])} == {"linear", "conv"}
    with pytest.raises(NoLayersError, match="embedding"):
        normprobe.Probe(model, kinds="embedding")
    with pytest.raises(NoLayersError, match=r"choose from linear.*conv.*residual, default"):
        normprobe.Probe(model, kinds="convolution")


def kinds_of(model: nn.Module, kinds: Any) -> list[Any]:
    """The ledger's rows of a probe with these kinds."""
    return list(normprobe.record(model.eval(), [torch.randn(2, 3, 6, 6)], kinds=kinds).ledger.itertuples())


def attention_truth(weights: tuple[Tensor, ...], real: np.ndarray) -> list[np.ndarray]:
    """Mean entropy by head of each layer, over real queries: float64."""
    found = []
    for of_layer in weights:
        p = of_layer.double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(p > 0, p * np.log(p), 0).sum(-1)  # (batch, heads, queries)
        found.append(np.moveaxis(entropy, 1, 2)[real].mean(0))
    return found


@pytest.mark.parametrize("name", ["llama", "olmo2", "gpt2", "bert", "vit", "albert", "t5"])
def test_entropy_of_attention_is_that_of_the_weights(name: str, kernel: str) -> None:
    model, given = tiny(name), batch(name)
    recording = normprobe.record(model, [given], kinds=("attention",))
    with torch.no_grad():
        output = model(**given, output_attentions=True)
    real = mask(name).bool().numpy()
    if name == "vit":
        real = np.ones((3, 17), dtype=bool)
    wanted = attention_truth(output.encoder_attentions if name == "t5" else output.attentions, real)
    if name == "t5":
        decoded = given["decoder_attention_mask"].bool().numpy()
        wanted += attention_truth(output.decoder_attentions, decoded)
    table = recording.attention
    if name == "albert":
        wanted = [np.mean(wanted, 0)]
    selves = [layer for layer in table["layer"].unique() if "EncDec" not in layer]
    assert len(selves) == len(wanted)
    for layer, entropy in zip(selves, wanted, strict=True):
        of = table[table["layer"] == layer]
        np.testing.assert_allclose(of["entropy"], entropy, rtol=1e-5)
        assert of["head"].tolist() == [0, 1, 2, 3]
        calls = 3 if name == "albert" else 1
        assert set(of["rows"]) <= {calls * real.sum(), *([decoded.sum()] if name == "t5" else [])}
    if name == "t5":
        cross = table[table["layer"].str.contains("EncDec")]
        assert set(cross["rows"]) == {decoded.sum()}
        entropies = attention_truth(output.cross_attentions, decoded)
        np.testing.assert_allclose(cross["entropy"], np.concatenate(entropies), rtol=1e-5)


def test_the_largest_logit_is_that_of_queries_and_keys() -> None:
    model, given = tiny("llama"), batch("llama")
    logits: list[np.ndarray] = []
    original = torch.nn.functional.softmax
    with torch.no_grad():
        recording = normprobe.record(model, [given, batch("llama", seed=5)], kinds="attention")

        def spy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            logits.append(x.double().numpy())
            return original(x, *args, **kwargs)

        torch.nn.functional.softmax = spy
        try:
            for one in (given, batch("llama", seed=5)):
                model(**one)
        finally:
            torch.nn.functional.softmax = original
    assert len(logits) == 6
    real = mask("llama").bool().numpy()
    for layer in range(3):
        rows = np.concatenate([np.moveaxis(logits[layer + 3 * call].max(-1), 1, 2)[real] for call in (0, 1)])
        of = recording.attention[recording.attention["layer"] == f"layers.{layer}.self_attn"]
        np.testing.assert_allclose(of["max_logit"], rows.max(0), rtol=RELATIVE)
        np.testing.assert_allclose(of["mean_max_logit"], rows.mean(0), rtol=1e-5, atol=1e-7)
        assert set(of["calls"]) == {2}


def test_fused_attention_is_declared(tmp_path: Path) -> None:
    recording = normprobe.record(tiny("llama", attention="sdpa"), [batch("llama")], kinds="attention")
    assert set(recording.ledger["status"]) == {"refused"}
    assert recording.ledger["reason"].str.startswith("scaled_dot_product_attention shows neither").all()
    assert recording.attention.empty
    fused = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad(), normprobe.Probe(fused, kinds=("default", "attention")) as probe:
        fused(x, x, x)
    row = probe.recording.ledger.query("kind == 'attention'").iloc[0]
    assert row["status"] == "refused"
    assert "no softmax over keys was seen" in row["reason"]


def test_attention_merges_and_is_written(tmp_path: Path) -> None:
    model, batches = tiny("bert"), [batch("bert"), batch("bert", size=2, seed=2)]
    parts = [normprobe.record(model, [given], kinds=("default", "attention")) for given in batches]
    whole = normprobe.record(model, batches, kinds=("default", "attention"))
    merged = normprobe.merge(*parts)
    pd.testing.assert_frame_equal(merged.attention, whole.attention, rtol=1e-12)
    loaded = normprobe.load(merged.save(tmp_path / "run.normprobe"))
    pd.testing.assert_frame_equal(loaded.attention, merged.attention)
    written = {path.name: path for path in merged.to_csv(tmp_path / "tables")}
    assert pd.read_csv(written["attention.csv"], keep_default_na=False)["entropy"].tolist() == pytest.approx(
        merged.attention["entropy"].tolist()
    )


def test_every_measured_forward_shows_its_attention() -> None:
    model, given = tiny("gpt2"), batch("gpt2")
    with torch.no_grad(), normprobe.Probe(model, kinds=("default", "attention"), every=2) as probe:
        for _ in range(6):
            model(**given)
    assert set(probe.recording.attention["calls"]) == {3}
