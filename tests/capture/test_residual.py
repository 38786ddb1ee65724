"""The residual stream: blocks found, their input, output and what they add, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import NoLayersError, NormprobeError
from normprobe.kernels import dispatch
from tests.helpers.oracle import RELATIVE, first
from tests.helpers.tiny_models import BLOCKS, batch, tiny

SITES = ("input", "output", "branch")


@pytest.fixture(params=["c", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of the kernels in turn."""
    monkeypatch.setenv("NORMPROBE_KERNEL", request.param)
    dispatch.compiled.cache_clear()
    yield request.param
    monkeypatch.undo()
    dispatch.compiled.cache_clear()


@pytest.fixture(autouse=True)
def plain_encoder() -> Any:
    """Without torch's fused encoder layer, whose sums round otherwise than those of its parts."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def truth(model: nn.Module, names: list[str], batches: list[dict[str, Tensor]]) -> dict[Any, np.ndarray]:
    """Every real row of each block and site, float64, shape (rows, features), by hooks of the test's own."""
    modules, found = dict(model.named_modules()), {}

    def after(name: str, real: Any, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        read = first([*args, *kwargs.values()]).double().numpy()
        wrote = first(output).double().numpy()
        # (time, batch, features) of XLNet; elsewhere the batch comes first.
        at = real.T if read.shape[:2] == real.T.shape and read.shape[:2] != real.shape else real
        at = at if read.shape[:2] == at.shape else np.ones(read.shape[:2], dtype=bool)
        for site, rows in zip(SITES, (read, wrote, wrote - read), strict=True):
            found.setdefault((name, site), []).append(rows[at])

    for given in batches:
        real = {side: given.get(f"{side}attention_mask") for side in ("", "decoder_")}
        handles = []
        for name in names:
            own = real["decoder_" if name.startswith("decoder") else ""]
            sizes = (len(next(iter(given.values()))), 1)
            mask = np.ones(sizes, dtype=bool) if own is None else own.bool().numpy()
            hook = lambda *call, name=name, mask=mask: after(name, mask, *call)  # noqa: E731
            handles.append(modules[name].register_forward_hook(hook, with_kwargs=True))
        with torch.no_grad():
            model(**given)
        for handle in handles:
            handle.remove()
    return {key: np.concatenate(rows) for key, rows in found.items()}


def hold(recording: normprobe.Recording, rows: dict[Any, np.ndarray]) -> None:
    """Compare the blocks' rows of all tables with the truth."""
    layers = recording.layers.set_index(["layer", "site"])
    features = recording.features.set_index(["layer", "site"])
    assert {key for key in layers.index if layers.loc[key, "kind"] == "residual"} == set(rows)
    for key, values in rows.items():
        row, scale = layers.loc[key], max(abs(values.mean()), values.std())
        assert row["n_samples"] == len(values), key
        assert row["variance"] == pytest.approx(values.var(), rel=RELATIVE)
        assert abs(row["mean"] - values.mean()) <= RELATIVE * scale
        assert row["within_sample_variance"] == pytest.approx(values.var(1).mean(), rel=RELATIVE)
        of_features = features.loc[[key]]
        np.testing.assert_allclose(of_features["variance"], values.var(0), rtol=RELATIVE)
        np.testing.assert_allclose(of_features["max"], values.max(0), rtol=RELATIVE, atol=1e-7)
    branches = recording.branches.set_index("layer")
    for name in branches.index:
        read, wrote, added = (rows[name, site] for site in SITES)
        assert branches.loc[name, "variance_ratio"] == pytest.approx(added.var() / read.var(), rel=1e-5)
        with np.errstate(invalid="ignore"):
            correlation = np.corrcoef(read.ravel(), added.ravel())[0, 1]
        assert branches.loc[name, "correlation"] == pytest.approx(correlation, abs=1e-4)
        assert branches.loc[name, "output_variance"] == pytest.approx(wrote.var(), rel=RELATIVE)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_stream_of_a_model_is_that_of_float64(name: str, kernel: str) -> None:
    model, batches = tiny(name), [batch(name), batch(name, size=2, seed=2)]
    names = BLOCKS[name]
    recording = normprobe.record(model, batches, residual=True)
    ledger = recording.ledger.set_index("layer").query("kind == 'residual'")
    assert ledger.index.tolist() == names
    assert set(ledger["status"]) == {"fired"}
    assert ledger["aligned"].all()
    hold(recording, truth(model, names, batches))
    again = recording.samples.query("kind == 'residual'")
    assert set(again["site"]) == set(SITES)


@pytest.mark.parametrize("name", ["llama", "olmo2", "bert", "albert"])
def test_parts_merge_and_files_keep_the_stream(name: str, tmp_path: Path) -> None:
    model, batches = tiny(name), [batch(name), batch(name, size=2, seed=2)]
    parts = []
    for given in batches:
        with torch.no_grad(), normprobe.Probe(model, residual=True) as probe:
            model(**given)
        parts.append(probe.recording)
    merged = normprobe.merge(*parts)
    hold(merged, truth(model, BLOCKS[name], batches))
    loaded = normprobe.load(merged.save(tmp_path / "run.normprobe"))
    for table in ("layers", "features", "samples", "ledger", "branches"):
        pd.testing.assert_frame_equal(getattr(loaded, table), getattr(merged, table))
    written = [path.name for path in merged.to_csv(tmp_path / "tables")]
    assert "branches.csv" in written
    assert "attention.csv" not in written


def test_padding_changes_nothing_of_the_stream() -> None:
    model = tiny("llama").double()
    ids = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    bare = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    padded = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in bare.items()}
    one, other = (normprobe.record(model, [given], residual=True).branches for given in (bare, padded))
    pd.testing.assert_frame_equal(one, other, rtol=1e-9)


def test_the_stream_leaves_no_trace_and_changes_no_output() -> None:
    for name in ("llama", "albert", "t5"):
        model, given = tiny(name), batch(name)
        hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
        with torch.no_grad():
            bare = model(**given)[0]
            with normprobe.Probe(model, residual=True, kinds=("default", "attention")):
                probed = model(**given)[0]
        assert torch.equal(bare, probed)
        assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_other_layers_read_the_same_with_the_stream_and_without() -> None:
    model, given = tiny("gpt2"), batch("gpt2")
    bare = normprobe.record(model, [given])
    beside = normprobe.record(model, [given], residual=True)
    shared = beside.layers[beside.layers["kind"] != "residual"].drop(columns="depth").reset_index(drop=True)
    parts = ["min_part", "max_part", "nonfinite_part"]
    pd.testing.assert_frame_equal(shared.drop(columns=parts), bare.layers.drop(columns=["depth", *parts]))
    assert bare.ledger["layer"].tolist() == beside.ledger.query("kind != 'residual'")["layer"].tolist()
    assert "(7 layer_norm, 3 residual, 12 linear)" in repr(beside)
    assert bare.branches.empty
    assert bare.attention.empty


def test_kinds_and_names_ask_for_blocks_too() -> None:
    model, given = tiny("bert"), batch("bert")
    alone = normprobe.record(model, [given], kinds="residual")
    assert alone.ledger["layer"].tolist() == BLOCKS["bert"]
    hold(alone, truth(model, BLOCKS["bert"], [given]))
    named = normprobe.record(model, [given], kinds="linear", residual="encoder.layer.1")
    assert named.branches["layer"].tolist() == ["encoder.layer.1"]
    assert set(named.layers["kind"]) == {"linear", "residual"}
    chosen = normprobe.record(model, [given], layers="encoder.layer.2*", kinds=("default", "residual"))
    assert chosen.branches["layer"].tolist() == ["encoder.layer.2"]
    assert named.meta["options"]["residual"] == ["encoder.layer.1"]


@pytest.mark.parametrize(
    ("residual", "error", "says"),
    [
        ("encoder.lair.*", NoLayersError, "names no module"),
        (3, NormprobeError, "must be True, a glob pattern"),
        ([], NormprobeError, "must be True, a glob pattern"),
    ],
)
def test_what_names_no_block_is_an_error(residual: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        normprobe.Probe(tiny("bert"), residual=residual)


def test_a_model_without_blocks_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    recording = normprobe.record(model, [torch.randn(8, 4)], residual=True)
    assert any("no module that repeats" in text for text in recording.meta["warnings"])


class Block(nn.Module):
    """A residual block of one Linear; in place if asked for."""

    def __init__(self, width: int, out: int = 0, *, in_place: bool = False) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(width, out or width), in_place

    def forward(self, x: Tensor) -> Tensor:
        """Add what the Linear gives."""
        added = self.linear(x)
        if self.in_place:
            return x.add_(added)
        return x + added if added.shape == x.shape else added


class Model(nn.Module):
    """Blocks one after another, or beside each other."""

    def __init__(self, *blocks: nn.Module, beside: bool = False, between: bool = False) -> None:
        super().__init__()
        self.blocks, self.beside, self.between = nn.ModuleList(blocks), beside, between

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        if self.beside:
            return torch.stack([block(x) for block in self.blocks]).sum(0)
        for block in self.blocks:
            x = block(x) * (2 if self.between else 1)
        return x


def reasons(model: nn.Module, **options: Any) -> dict[str, tuple[str, str]]:
    """Status and reason of each block."""
    recording = normprobe.record(model, [torch.randn(4, 5, 8)], **{"residual": True, **options})
    rows = recording.ledger[recording.ledger["kind"] == "residual"].set_index("layer")
    return {str(name): (row["status"], row["reason"]) for name, row in rows.iterrows()}


def test_what_is_no_stream_is_refused_with_the_reason() -> None:
    beside = reasons(Model(Block(8), Block(8), Block(8), beside=True))
    assert [status for status, _ in beside.values()] == ["refused"] * 3
    assert all("beside each other" in reason for _, reason in beside.values())
    between = reasons(Model(Block(8), Block(8), between=True))
    assert all("does not read what an entry" in reason for _, reason in between.values())
    assert reasons(Model(Block(8), Block(8), between=True), residual="blocks.*") == {
        "blocks.0": ("fired", ""),
        "blocks.1": ("fired", ""),
    }
    wider = reasons(Model(Block(8), Block(8, 6), Block(6)))
    assert [status for status, _ in wider.values()] == ["fired", "refused", "fired"]
    assert "(4, 5, 6) for an input of (4, 5, 8)" in wider["blocks.1"][1]


def test_a_block_that_writes_to_its_input_has_no_branch() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        model = Model(Block(8, in_place=True), Block(8))
        with mode(), normprobe.Probe(model, residual=True) as probe:
            for _ in range(2):
                model(torch.randn(4, 5, 8))
        recording = probe.recording
        reason = recording.ledger.set_index("layer").loc["blocks.0", "reason"]
        assert "where it writes to the tensor that it reads (2 times)" in reason
        for name, sites in {"blocks.0": SITES[:2], "blocks.1": SITES}.items():
            assert tuple(recording.layers.loc[recording.layers["layer"] == name, "site"]) == sites


def test_blocks_that_ran_alone_before_the_others_stay_blocks() -> None:
    model = Model(*[Block(8) for _ in range(4)])
    with torch.no_grad(), normprobe.Probe(model, residual=True) as probe:
        for some in ([1], [0, 1, 2], [0, 3], [0, 1, 2, 3]):
            x = torch.randn(4, 5, 8)
            for at in some:
                x = model.blocks[at](x) if len(some) < 4 else x
            if len(some) == 4:
                model(x)
    assert set(probe.recording.ledger.query("kind == 'residual'")["status"]) == {"fired"}


def test_a_lone_block_counts_only_if_it_repeats() -> None:
    once = normprobe.record(Model(Block(8)), [torch.randn(4, 5, 8)], residual=True)
    assert "residual" not in once.ledger["kind"].tolist()
    block = Block(8)
    model = nn.Module()
    model.layers = nn.ModuleList([block])
    model.forward = lambda x: block(block(block(x)))  # type: ignore[method-assign]
    thrice = normprobe.record(model, [torch.randn(4, 5, 8)], residual=True)
    row = thrice.ledger.set_index("layer").loc["layers.0"]
    assert (row["kind"], row["status"], row["calls"]) == ("residual", "fired", 3)


def test_half_types_are_subtracted_in_float32() -> None:
    model = Model(*[Block(64) for _ in range(3)]).to(torch.bfloat16)
    x = 100 * torch.randn(8, 16, 64).to(torch.bfloat16)
    recording = normprobe.record(model, [x], residual=True)
    rows = {}
    with torch.no_grad():
        for name, block in model.blocks.named_children():
            wrote = block(x)
            rows[f"blocks.{name}"] = (wrote.double() - x.double()).numpy()
            x = wrote
    branch = recording.layers.query("site == 'branch'").set_index("layer")
    for name, values in rows.items():
        assert branch.loc[name, "variance"] == pytest.approx(values.var(), rel=RELATIVE)
        assert branch.loc[name, "dtype"] == "float32"


def test_gradients_of_the_stream() -> None:
    model = Model(*[Block(8) for _ in range(3)])
    x = torch.randn(4, 5, 8, requires_grad=True)
    with normprobe.Probe(model, residual=True, gradients=True) as probe:
        model(x).square().sum().backward()
    layers = probe.recording.layers.set_index(["layer", "site"])
    assert layers.loc[("blocks.0", "input_gradient"), "variance"] == pytest.approx(
        float(x.grad.double().var(correction=0)), rel=1e-5
    )


def test_convolutions_have_a_stream_of_channels() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    x = torch.randn(2, 3, 64, 64)
    recording = normprobe.record(model, [x], residual=True)
    ledger = recording.ledger.query("kind == 'residual'").set_index("layer")
    skips = [f"_blocks.{i}" for i, block in enumerate(model._blocks) if is_skip(block)]
    assert ledger.index[ledger["status"] == "fired"].tolist() == skips
    assert set(ledger["sample_unit"]) == {"example"}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in skips:
        block = model._blocks[int(name.rpartition(".")[2])]
        block.register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: (args[0].clone(), out.clone())})
        )
    with torch.no_grad():
        model(x)
    branch = recording.features.query("site == 'branch'").set_index("layer")
    for name, (read, wrote) in seen.items():
        added = (wrote.double() - read.double()).numpy()
        np.testing.assert_allclose(branch.loc[name, "variance"], added.var((0, 2, 3)), rtol=1e-6)


def is_skip(block: nn.Module) -> bool:
    """Whether an MBConv block adds its input."""
    args = block._block_args
    stride = args.stride if isinstance(args.stride, int) else args.stride[0]
    return bool(block.id_skip and stride == 1 and args.input_filters == args.output_filters)
