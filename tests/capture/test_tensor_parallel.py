"""Layers that are spread over processes as DTensors: each process has its part of one process's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

import normprobe
from tests.helpers.processes import Processes


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    started = Processes(4)
    yield started
    started.end()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 6)
        with torch.no_grad():
            self.norm.weight.copy_(torch.arange(1, 9) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


def data() -> Tensor:
    return torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(3))


def plan(how: str) -> dict[str, Any]:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
    )

    if how != "sequence":
        return {
            "up": ColwiseParallel(),
            "down": RowwiseParallel(),
            "head": ColwiseParallel(output_layouts=Replicate()),
        }
    return {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
        "head": ColwiseParallel(
            input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False
        ),  # as loss parallel has it
        "": PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=True
        ),
    }


def spread(how: str) -> tuple[Block, Tensor]:
    """This process's part of the model, and its data."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import parallelize_module

    model, x = Block(), data()
    if how != "with FSDP":
        parallelize_module(model, init_device_mesh("cpu", (distributed.get_world_size(),)), plan(how))
        return model, x
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan(how))
    fully_shard(model, mesh=mesh["data"])
    return model, x[mesh.get_local_rank("data") :: 2]


def measured(rank: int, how: str) -> dict[str, Any]:
    model, x = spread(how)
    bare = model(x)
    with normprobe.Probe(model, samples=8) as probe:
        for batch in x.split(3 if len(x) == 6 else 2):
            out = model(batch)
            out.to_local().sum().backward() if how == "sequence" else out.sum().backward()
    del bare
    tables = probe.recording.tables
    return {
        "sites": tables.sites,
        "features": tables.feature_moments,
        "samples": probe.recording.samples,
        "ledger": probe.recording.ledger,
        "share": probe.recording.meta.get("share", {"rank": 0, "world_size": 1}),
    }


PLACEMENTS = {
    "tensor": "whole whole replicated features features replicated replicated features",
    "sequence": "samples samples replicated features features samples replicated features",
}


@pytest.mark.parametrize(("how", "size"), [("tensor", 2), ("tensor", 4), ("sequence", 2), ("with FSDP", 4)])
def test_a_process_measures_its_part_of_what_one_measures(processes: Processes, how: str, size: int) -> None:
    parts = processes.run(size, measured, how)
    for rank, part in enumerate(parts):
        sites, share = part["sites"], part["share"]
        assert sites["placement"].tolist() == PLACEMENTS.get(how, PLACEMENTS["tensor"]).split()
        assert set(part["ledger"]["status"]) == {"fired"}
        assert (share["rank"], share["world_size"]) == ((rank // 2, 2) if how == "with FSDP" else (0, 1))
        x = data()[share["rank"] :: share["world_size"]]
        expected = normprobe.record(
            Block(), [x], samples="all", rank=share["rank"], world_size=share["world_size"]
        )
        _same_features(part, expected)
        _same_samples(part, expected)


def gathered(rank: int, how: str) -> dict[str, Any] | None:
    model, x = spread(how)
    with torch.no_grad(), normprobe.Probe(model, samples=8) as probe:
        for batch in torch.split(x, 3):
            model(batch)
    whole = normprobe.gather(probe.recording)
    return (
        None if whole is None else {name: getattr(whole, name) for name in ("layers", "features", "samples")}
    )


@pytest.mark.parametrize(("how", "size"), [("tensor", 2), ("tensor", 4), ("with FSDP", 4)])
def test_what_all_gather_is_what_one_process_measures(processes: Processes, how: str, size: int) -> None:
    whole, *others = processes.run(size, gathered, how)
    assert others == [None] * (size - 1)
    expected = normprobe.record(Block(), [data()[:3], data()[3:]], samples=8)
    for name, key in (("layers", ["layer", "site"]), ("features", ["layer", "site", "feature"])):
        found, one = whole[name], getattr(expected, name)
        assert found[key].values.tolist() == one[key].values.tolist()
        for column in ("mean", "variance", "min", "max", "abs_mean"):
            np.testing.assert_allclose(found[column], one[column], atol=1e-6)
    counts = ["n_samples", "n_features", "depth"]
    assert whole["layers"][counts].values.tolist() == expected.layers[counts].values.tolist()
    np.testing.assert_allclose(whole["features"]["weight"], expected.features["weight"])
    kept = ["layer", "site", "example", "position"]
    assert whole["samples"][kept].values.tolist() == expected.samples[kept].values.tolist()


def _same_features(part: dict[str, Any], expected: normprobe.Recording) -> None:
    starts = np.concatenate([[0], np.cumsum(part["sites"]["n_features"])])
    for place, site in enumerate(part["sites"].itertuples()):
        if site.placement == "samples":
            continue
        found = part["features"].iloc[starts[place] : starts[place + 1]]
        whole = expected.tables.features.query(f"layer == {site.layer!r} and site == {site.site!r}")
        first = 0 if site.placement != "features" else int(site.first_feature)
        whole = whole.iloc[first : first + site.n_features]
        assert found["count"].tolist() == whole["count"].tolist()
        np.testing.assert_allclose(found["mean"], whole["mean"], atol=1e-6)
        np.testing.assert_allclose(found["m2"] / found["count"], whole["variance"], atol=1e-6)
        np.testing.assert_allclose(found["weight"], whole["weight"])


def _same_samples(part: dict[str, Any], expected: normprobe.Recording) -> None:
    placement = part["sites"].set_index(["layer", "site"])["placement"]
    for (layer, site), kept in part["samples"].groupby(["layer", "site"]):
        if placement[layer, site] == "features":
            continue
        whole = expected.samples.query(f"layer == {layer!r} and site == {site!r}")
        every = whole.set_index(["example", "position"])
        here = kept.set_index(["example", "position"])
        np.testing.assert_allclose(here["variance"], every.loc[here.index, "variance"], atol=1e-6)
        if placement[layer, site] != "samples":
            assert list(here.index) == list(every.index[: len(here)])
