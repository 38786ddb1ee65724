"""`gather`, pipelines and shares of the data, in real processes of torch.distributed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
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


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 4)
    )


def data() -> Tensor:
    return torch.randn(42, 5, 8, generator=torch.Generator().manual_seed(1))


def alone() -> normprobe.Recording:
    return normprobe.record(model(), [data()], samples=16)


def tables(recording: normprobe.Recording | None) -> dict[str, Any] | None:
    if recording is None:
        return None
    return {name: getattr(recording, name) for name in ("layers", "features", "samples", "ledger", "meta")}


def same(found: dict[str, Any], expected: normprobe.Recording) -> None:
    """The tables of one process, but for forwards and shares, which are others."""
    others = ["type", "calls", "part", "call", "min_part", "max_part", "training", "grad"]
    for name in ("layers", "features", "samples"):
        table = getattr(expected, name)
        left = [column for column in others if column in table]
        pd.testing.assert_frame_equal(
            found[name].drop(columns=left), table.drop(columns=left), rtol=1e-5, atol=1e-6
        )


def batches(rank: int, world: int) -> list[Tensor]:
    return list(data()[rank::world].split(4))  # 42 examples: the last batch is uneven


def gathered(rank: int, how: str) -> Any:
    world = distributed.get_world_size()
    net: Any = model()
    if how == "ddp":
        run = nn.parallel.DistributedDataParallel(net)
        with run.join(), normprobe.Probe(run, samples=16) as probe:
            for batch in batches(rank, world):
                run(batch).square().mean().backward()
    elif how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        for layer in (net[0], net[2], net):
            fully_shard(layer, mesh=mesh)
        with normprobe.Probe(net, samples=16) as probe:
            for batch in data()[:40][rank::world].split(5):
                net(batch)
    else:
        with normprobe.Probe(net, samples=16) as probe:
            for batch in batches(rank, world) if how != "empty" or rank != 1 else []:
                net(batch)
    if how == "raised":
        return tables(normprobe.gather(None if rank == 1 else probe.recording))
    return tables(normprobe.gather(probe.recording, all=how == "all"))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_gather_what_one_measures(processes: Processes, size: int) -> None:
    whole, *others = processes.run(size, gathered, "plain")
    same(whole, alone())
    assert others == [None] * (size - 1)
    assert whole["meta"]["examples"] == 42


def test_ddp_with_join_and_on_all_processes(processes: Processes) -> None:
    same(processes.run(4, gathered, "ddp")[0], alone())
    for found in processes.run(2, gathered, "all"):
        same(found, alone())


def test_fsdp(processes: Processes) -> None:
    expected = normprobe.record(model(), [data()[:40]], samples=16)
    same(processes.run(2, gathered, "fsdp")[0], expected)


@pytest.mark.filterwarnings("ignore:nothing was measured")
def test_a_process_without_data_or_without_a_recording_is_named(processes: Processes) -> None:
    for how, said in (("empty", "nothing was measured"), ("raised", "those of rank 1 gave no recording")):
        found = processes.run(2, gathered, how)[0]
        assert any(said in warning for warning in found["meta"]["warnings"])
        assert found["meta"]["examples"] == 21


def test_alone_and_what_is_no_recording() -> None:
    recording = alone()
    assert normprobe.gather(recording) is recording
    with pytest.raises(normprobe.NormprobeError, match="takes this process's recording"):
        normprobe.gather(recording.layers)  # type: ignore[arg-type]
    with pytest.raises(normprobe.RecordingError, match="no process has a recording"):
        normprobe.gather(None)


class Stages(nn.Module):
    """A model whose layers are cut off for stages, as torchtitan does it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict(
            {f"{i}": nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for i in range(4)}
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x


def cut(first: int, last: int) -> Stages:
    stage = Stages()
    for index in range(4):
        if not first <= index < last:
            del stage.layers[f"{index}"]
    return stage


def pipeline(rank: int, name: str) -> list[dict[str, Any] | None]:
    from torch.distributed import pipelining

    per_rank = 2 if name == "ScheduleInterleaved1F1B" else 1
    count = 2 * per_rank
    own = [rank + 2 * number for number in range(per_rank)]
    width = 4 // count
    models = [cut(index * width, (index + 1) * width) for index in own]
    stages = [
        pipelining.PipelineStage(each, index, count, torch.device("cpu"))
        for each, index in zip(models, own, strict=True)
    ]
    schedule = getattr(pipelining, name)(
        stages[0] if per_rank == 1 else stages, n_microbatches=4, loss_fn=lambda y, t: y.square().mean()
    )
    probes = [normprobe.Probe(each, samples=16) for each in models]
    for probe in probes:
        probe.__enter__()
    for batch in data()[:24, 0].split(8):
        schedule.step(*([batch] if rank == 0 else []), **({"target": torch.zeros(8, 8)} if rank == 1 else {}))
        for probe in probes:
            probe.step()
    for probe in probes:
        probe.__exit__(None, None, None)
    return [tables(probe.recording) for probe in probes]


@pytest.mark.parametrize("name", ["ScheduleGPipe", "Schedule1F1B", "ScheduleInterleaved1F1B"])
def test_stages_of_a_pipeline_measure_micro_batches_and_nothing_else(processes: Processes, name: str) -> None:
    expected = normprobe.record(Stages(), [data()[:24, 0]], samples=16)
    found = [stage for rank in processes.run(2, pipeline, name) for stage in rank]
    assert sorted(stage["meta"]["stage"] for stage in found) == [[i, len(found)] for i in range(len(found))]
    for stage in found:
        assert (stage["meta"]["measured"], stage["meta"]["forwards"]) == (12, 13)
        assert stage["ledger"]["reason"].str.contains("infers shapes").all()
        for table in ("layers", "features", "samples"):
            wanted = getattr(expected, table)
            wanted = wanted[wanted["layer"].isin(stage["ledger"]["layer"])].reset_index(drop=True)
            numbers = [
                name for name in wanted.select_dtypes("number") if name not in ("depth", "calls", "call")
            ]
            pd.testing.assert_frame_equal(
                stage[table][numbers], wanted[numbers], rtol=1e-5, atol=1e-6, check_dtype=False
            )
        assert [window["last_step"] for window in stage["meta"]["windows"]] == [2]
