"""What the engine must hold beside exactness: threads, forks, writes between readers, memory, no waiting."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.kernels import dispatch
from normprobe.kernels.accumulator import TorchAccumulator
from normprobe.kernels.choice import Choice
from normprobe.kernels.numpy_accumulator import NumpyAccumulator
from normprobe.kernels.types import AxisRoles
from tests.helpers.oracle import two_pass

COMPILED = dispatch.compiled() is not None
compiled_only = pytest.mark.skipif(not COMPILED, reason="the C kernel is not built, or not asked for")


class Readers(nn.Module):
    """Two layers that read one tensor, with something done to it in between."""

    def __init__(self, between: Any = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.between = between or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        self.first(x)
        return self.second(self.between(x))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 16), nn.BatchNorm1d(16)
    ).eval()


def data(*sizes: int, seed: int = 1) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def frames(recording: normprobe.Recording) -> list[pd.DataFrame]:
    return [recording.layers, recording.features, recording.samples.drop(columns="part")]


def same(a: normprobe.Recording, b: normprobe.Recording) -> None:
    for one, other in zip(frames(a), frames(b), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def run_alone(code: str, **environment: str) -> str:
    """Run code in a process of its own, which may not take longer than a minute."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 2, 3, 7])
    def test_any_number_measures_the_same(self, threads: int) -> None:
        batch, before = data(700, 32), torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            alone = normprobe.record(model(), batch, part="x")
            torch.set_num_threads(threads)
            many, again = (normprobe.record(model(), batch, part="x") for _ in range(2))
        finally:
            torch.set_num_threads(before)
        same(many, again)
        for name in ("mean", "variance", "min", "max"):
            np.testing.assert_allclose(many.features[name], alone.features[name], rtol=1e-6, atol=1e-6)
        assert (many.features["count"] == 700).all()

    @pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT", "OMP_MAX_ACTIVE_LEVELS"])
    def test_a_team_smaller_than_asked_leaves_nothing_out(self, limit: str) -> None:
        value = "1" if limit == "OMP_THREAD_LIMIT" else "0"
        said = run_alone(
            """
            import torch, normprobe
            torch.set_num_threads(4)
            recording = normprobe.record(torch.nn.Linear(64, 64), torch.ones(4000, 64))
            print(set(recording.features["count"]), set(recording.layers["n_samples"]))
            """,
            **{limit: value},
        )
        assert said == "{4000} {4000}"

    def test_in_a_forked_process(self) -> None:
        said = run_alone(
            """
            import torch, normprobe
            from torch.utils.data import DataLoader, Dataset
            torch.set_num_threads(2)
            layer = torch.nn.Linear(64, 64)
            normprobe.record(layer, torch.ones(4000, 64))
            class Data(Dataset):
                def __len__(self): return 2
                def __getitem__(self, index):
                    recording = normprobe.record(layer, torch.ones(4000, 64))
                    return int(recording.features["count"].min())
            print([int(count) for count in DataLoader(Data(), num_workers=1, multiprocessing_context="fork")])
            """
        )
        assert said == "[4000, 4000]"

    def test_four_models_with_four_probes_at_once(self) -> None:
        batches = [data(50, 32, seed=seed) for seed in range(8)]
        models = [model(seed) for seed in range(4)]
        found: dict[int, normprobe.Recording] = {}

        def record(seed: int) -> None:
            found[seed] = normprobe.record(models[seed], batches, part="x")

        threads = [threading.Thread(target=record, args=(seed,)) for seed in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for seed in range(4):
            same(found[seed], normprobe.record(models[seed], batches, part="x"))

    def test_one_model_called_from_four_threads(self) -> None:
        net, batches = model(), [data(50, 32, seed=seed) for seed in range(40)]

        def run(mine: list[Tensor]) -> None:
            with torch.no_grad():
                for batch in mine:
                    net(batch)

        with normprobe.Probe(net) as probe:
            threads = [threading.Thread(target=run, args=(batches[i::4],)) for i in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        expected = normprobe.record(net, batches)
        assert set(probe.recording.ledger["calls"]) == {40}
        assert (probe.recording.features["count"] == 2000).all()
        for name in ("mean", "variance"):
            found, wanted = probe.recording.features[name], expected.features[name]
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


class TestOneTensorReadByTwo:
    def recorded(self, between: Any, *, inference: bool = False) -> tuple[np.ndarray, np.ndarray]:
        mode = torch.inference_mode() if inference else torch.no_grad()
        with mode, normprobe.Probe(Readers(between)) as probe:
            for seed in range(3):
                probe.model(data(20, 6, seed=seed))
        means = probe.recording.features.query("site == 'input'").set_index("layer")["mean"]
        return means["first"].to_numpy(), means["second"].to_numpy()

    expected = torch.cat([data(20, 6, seed=seed) for seed in range(3)]).double().mean(0).numpy()

    @pytest.mark.parametrize("inference", [False, True])
    def test_unchanged(self, inference: bool) -> None:
        first, second = self.recorded(None, inference=inference)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, self.expected, atol=1e-6)

    @pytest.mark.parametrize("inference", [False, True])
    def test_written_to_in_between(self, inference: bool) -> None:
        first, second = self.recorded(lambda x: x.add_(5), inference=inference)
        np.testing.assert_allclose(first, self.expected, atol=1e-6)
        np.testing.assert_allclose(second, self.expected + 5, atol=1e-6)

    def test_another_tensor_at_the_same_address(self) -> None:
        addresses = []

        class Freed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

            def forward(self, x: Tensor) -> Tensor:
                one = x + 1
                addresses.append((id(one), one.data_ptr()))
                self.first(one)
                del one
                other = x + 2
                addresses.append((id(other), other.data_ptr()))
                return self.second(other)

        with torch.no_grad(), normprobe.Probe(Freed()) as probe:
            for seed in range(2000):  # until the allocator gives both the same place
                probe.model(data(20, 6, seed=seed))
                if seed > 20 and addresses[-1] == addresses[-2]:
                    break
        assert addresses[-1] == addresses[-2]
        means = probe.recording.features.query("site == 'input'").set_index("layer")["mean"]
        shift = means["second"].to_numpy() - means["first"].to_numpy()
        np.testing.assert_allclose(shift, 1, atol=1e-5)

    @compiled_only
    def test_it_is_measured_once(self) -> None:
        from normprobe.kernels.cpu import SMALL, RecentMoments, compiled_choice

        choice, tensor, memory = Choice(50, 1), data(50, 6), RecentMoments()
        one, other = (dispatch.accumulator(6, AxisRoles(by_example=False), tensor.device) for _ in range(2))
        one.state.observe(tensor, compiled_choice(choice), None, memory, 1, SMALL)
        np.asarray(tensor)[:] = (
            0  # behind torch's back: the version stays, so what was measured is used again
        )
        other.state.observe(tensor, compiled_choice(choice), None, memory, 1, SMALL)
        assert (one.totals(0, 0).features.mean == other.totals(0, 0).features.mean).all()
        tensor.zero_()
        other.state.observe(tensor, compiled_choice(choice), None, memory, 1, SMALL)
        assert (other.totals(0, 0).features.zeros == 50).all()


@compiled_only
@pytest.mark.parametrize("shape", [(3, 5, 200, 1), (2, 70, 9, 15), (4, 3, 16, 16), (2, 600, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced", "expanded"])
def test_channel_layouts_are_read_as_they_lie(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str
) -> None:
    values = (data(*shape) * 3 + 7).to(dtype)
    if layout == "channels last":
        values = values.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        values = torch.cat([values, values], 2)[:, :, ::2]
    elif layout == "expanded":
        values = values[:1].expand(shape)
    recording = normprobe.record(nn.BatchNorm2d(shape[1]).to(dtype), values, part="x")
    rows = values.double().movedim(1, -1).reshape(-1, shape[1]).numpy()
    truth = two_pass(rows)
    found = recording.features.query("site == 'input'")
    np.testing.assert_allclose(found["mean"], truth["mean"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["variance"], truth["variance"], rtol=1e-6)
    assert list(found["count"]) == [len(rows)] * shape[1]
    samples = recording.samples.query("site == 'input'").sort_values("example")
    each = two_pass(values.double().reshape(shape[0], -1).numpy(), axis=1)
    np.testing.assert_allclose(samples["variance"], each["variance"], rtol=1e-6)


def test_two_runs_give_the_same_bits() -> None:
    batches = [data(300, 32, seed=seed) * 10**seed for seed in range(3)]
    same(normprobe.record(model(), batches, part="x"), normprobe.record(model(), batches, part="x"))


def test_few_rows_at_a_time_are_as_exact_as_many() -> None:
    net, batch = model(), data(101, 32) + 100
    cut = normprobe.record(net, [*batch[:60].split(1), *batch[60:].split(3)])
    whole = normprobe.record(net, batch)
    truth = two_pass(batch.double().numpy())
    for recording in (cut, whole):
        found = recording.features.query("layer == '0' and site == 'input'")
        np.testing.assert_allclose(found["variance"], truth["variance"], rtol=1e-6)
    assert (cut.layers["n_samples"] == 101).all()
    held = ["min_example", "max_example", "min_feature"]
    pd.testing.assert_frame_equal(cut.layers.iloc[:1][held], whole.layers.iloc[:1][held])


def test_loading_the_kernel_leaves_denormals_alone() -> None:
    said = run_alone(
        """
        import numpy, torch
        from normprobe.kernels import dispatch
        dispatch.compiled()
        print(float(torch.tensor(1e-39) * 0.5) > 0, float(numpy.float32(1e-39) * numpy.float32(0.5)) > 0)
        """
    )
    assert said == "True True"


class TestMemory:
    def test_it_does_not_grow_with_the_number_of_batches(self) -> None:
        net, batch = model(), data(64, 32)
        with torch.no_grad(), normprobe.Probe(net, samples=64) as probe:
            for _ in range(150):
                net(batch)
            gc.collect()
            before = _resident()
            for _ in range(1000):
                net(batch)
            gc.collect()
            assert _resident() - before <= 3 << 20
        assert probe.recording.meta["forwards"] == 1150

    def test_the_recording_states_its_size(self) -> None:
        recording = normprobe.record(model(), data(64, 32), samples=16, values=4)
        features = sum(recording.layers["n_features"])
        assert features * 64 <= recording.meta["nbytes"] <= features * 64 * 4 + (1 << 17)
        more = normprobe.record(model(), data(64, 32), samples=64, values=32)
        assert more.meta["nbytes"] > recording.meta["nbytes"]

    def test_the_peak_stays_near_the_bare_one(self) -> None:
        code = """
            import resource, torch, normprobe
            normprobe.record(torch.nn.Linear(2, 2), torch.ones(2, 2))  # both load what a probe needs
            net = torch.nn.Sequential(*[torch.nn.Linear(768, 768) for _ in range(6)]).eval()
            batch = torch.randn(2048, 768)
            with torch.no_grad():
                net(batch)
                {run}
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
        # Freed blocks go back at once: else the heap's own habits are measured.
        heap = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        bare = int(run_alone(code.format(run="net(batch)"), **heap))
        probed = "probe = normprobe.Probe(net)\n                with probe: [net(batch) for _ in range(3)]"
        assert (
            int(run_alone(code.format(run=probed), **heap)) - bare < (16 + 12) << 10
        )  # 12 MiB: the recording


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class TestAccelerators:
    """Tensors of the meta device have no numbers: to ask for one, as waiting for a device does, fails."""

    def choice(self, masked: bool) -> Choice:
        real = np.arange(40).reshape(20, 2) % 5 > 0 if masked else None
        keep, rows = np.array([1, 2, 7]), np.array([3, 5])
        return Choice(20, 2, real, keep, np.arange(3), rows, np.arange(2), np.arange(20), np.arange(20))

    @pytest.mark.parametrize("masked", [False, True])
    def test_nothing_is_asked_of_the_device(self, masked: bool) -> None:
        sums, choice = TorchAccumulator(4, torch.device("meta")), self.choice(masked)
        for _ in range(3):
            news = sums.add(torch.empty(20, 2, 4, device="meta"), choice)
            sums.keep(torch.empty(20, 2, 4, device="meta"), choice)
            assert news == (None, None, None)
        with pytest.raises((RuntimeError, NotImplementedError)):
            sums.totals(3, 2)  # only the recording reads it back

    @pytest.mark.parametrize("masked", [False, True])
    def test_what_is_kept_there_is_what_the_cpu_says_at_once(self, masked: bool) -> None:
        # Of float64, which both measure alike; the CPU alone may try float32 first.
        values, choice = data(20, 2, 4).double(), self.choice(masked)
        here, there = NumpyAccumulator(4), TorchAccumulator(4, torch.device("cpu"))
        news = here.add(values, choice)
        there.add(values, choice)
        holders = there.totals(3, 0).holders
        assert holders is not None
        assert news.low is not None
        assert news.high is not None
        for held, (value, example, position, feature) in zip(news[:2], holders, strict=True):
            assert held == (value, example, feature)
            assert position == example
        for name in ("mean", "m2", "count"):
            mine, other = (getattr(sums.totals(3, 0).features, name) for sums in (here, there))
            np.testing.assert_array_equal(mine, other)


@compiled_only
@pytest.mark.parametrize("seed", range(8))
def test_many_equal_numbers_beside_a_few_large_ones(seed: int) -> None:
    """Nearly dead channels behind a ReLU: added up one by one in float32, all roundings would go one way."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, 128, 32, 32, generator=generator)
    values = torch.where(torch.rand(values.shape, generator=generator) < 0.002, values, 0.0)
    values[0, :, 5, 5] += 0.01
    found = normprobe.record(nn.BatchNorm2d(128), values).features.query("site == 'input'")
    expected = values.double().var((0, 2, 3), correction=0).numpy()
    np.testing.assert_allclose(found["variance"], expected, rtol=1e-6)


@compiled_only
@pytest.mark.parametrize("row", [0, 1, 2, 3, 7])
def test_one_number_among_equal_ones(row: int) -> None:
    """Met early, it is what many small squares are added to, one rounding after the other."""
    values = torch.zeros(64, 5000)
    values[row] = torch.randn(5000, generator=torch.Generator().manual_seed(row))
    found = normprobe.record(nn.Linear(5000, 2), values).features.query("site == 'input'")
    expected = values.double().var(0, correction=0).numpy()
    np.testing.assert_allclose(found["variance"], expected, rtol=6e-7)


@compiled_only
def test_strides_beyond_32_bits(tmp_path: Path) -> None:
    apart = 1 << 30
    try:  # a sparse file: only the pages that are written take room
        held = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2 * apart + 8)
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no room for a sparse file of 8 GiB: {error}")
    rows = held.as_strided((3, 8), (apart, 1))
    rows.copy_(data(3, 8))
    model = nn.Linear(8, 2)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        model(rows)
    found = probe.recording.features.query("site == 'input'")
    np.testing.assert_allclose(found["mean"], data(3, 8).double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["variance"], data(3, 8).double().var(0, correction=0), rtol=1e-6)


@compiled_only
def test_strides_that_torch_has_not_are_refused() -> None:
    from normprobe.kernels._cpu import AccumulatorState, CompiledChoice

    nobody = np.empty(0, np.int64)
    plan = CompiledChoice(2, 1, None, nobody, nobody, nobody, nobody)
    state = AccumulatorState(3, -1, 1, -1, True)
    held = data(2, 3)
    given = {"shape": (2, 3), "dtype": held.dtype, "data_ptr": held.data_ptr}
    backwards = SimpleNamespace(stride=lambda: (-3, 1), **given)
    assert state.measure(backwards, plan, 1, 0) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows and features of the choice"):
        state.measure(data(2, 4), plan, 1, 0)
    with pytest.raises(ValueError, match="rows and features of the choice"):
        state.measure(data(3, 3), plan, 1, 0)
    assert state.measure(held, plan, 1, 0) is not None


def test_calls_of_forwards_left_out_are_counted() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    with torch.no_grad(), normprobe.Probe(model, every=3) as probe:
        for seed in range(7):
            model(data(5, 6, seed=seed))
    assert [state.firings for state in probe._callbacks.states.values()] == [7, 7]
    assert set(probe.recording.ledger["calls"]) == {3}


@compiled_only
class TestLooks:
    """Torch fills a DLPack tensor at once; of an older torch, each attribute is read."""

    TENSORS = {  # noqa: RUF012
        "float32": lambda: torch.randn(6, 5),
        "float64": lambda: torch.randn(6, 5, dtype=torch.float64),
        "bfloat16": lambda: torch.randn(6, 5).to(torch.bfloat16),
        "float16": lambda: torch.randn(6, 5).half(),
        "gradients": lambda: torch.randn(6, 5, requires_grad=True) * 1,
        "a parameter": lambda: nn.Parameter(torch.randn(6, 5)),
        "transposed": lambda: torch.randn(5, 6).T,
        "a slice": lambda: torch.randn(9, 12)[2:8, 3:8],
        "expanded": lambda: torch.randn(1, 5).expand(6, 5),
        "another sign than in memory": lambda: torch.randn(6, 5, dtype=torch.complex64).conj().imag,
        "whole numbers": lambda: torch.arange(30).reshape(6, 5),
        "bool": lambda: torch.arange(30).reshape(6, 5) % 3 == 0,
        "another device": lambda: torch.randn(6, 5, device="meta"),
        "sparse": lambda: torch.eye(6, 5).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.randn(6, 5), 0.1, 0, torch.qint8),
    }
    READ = (
        "float32",
        "float64",
        "bfloat16",
        "float16",
        "gradients",
        "a parameter",
        "transposed",
        "a slice",
        "expanded",
    )

    @pytest.fixture(params=["at once", "by attributes"])
    def looking(self, request: pytest.FixtureRequest) -> Any:
        from normprobe.kernels import cpu

        table = cpu.TORCH_HANDLES[-1]
        if request.param == "at once":
            if table is None:
                pytest.skip("this torch has no such table")
            yield
            return
        cpu.configure(*cpu.TORCH_HANDLES[:-1], None)
        yield
        cpu.configure(*cpu.TORCH_HANDLES)

    @pytest.mark.filterwarnings("ignore")  # torch's own, of quantized tensors
    @pytest.mark.parametrize("name", TENSORS)
    def test_what_lies_in_memory_is_read_and_nothing_else(self, name: str, looking: None) -> None:
        torch.manual_seed(0)
        tensor = self.TENSORS[name]()
        from normprobe.kernels import cpu

        state, plan = cpu.AccumulatorState(5, -1, 1, -1, False), cpu.compiled_choice(Choice(6, 1))
        news = state.observe(tensor, plan, None, cpu.RecentMoments(), 1, 0)
        if name not in self.READ:
            assert news is False
            return
        expected = two_pass(tensor.detach().to(torch.float64).numpy(), 0)
        found = np.frombuffer(state.fields(0, 0)[0]).reshape(-1, 5)
        assert found[0].tolist() == [6] * 5
        np.testing.assert_allclose(found[1], expected["mean"], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found[2] / 6, expected["variance"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 3.3, -1e-20, 1e20])
@pytest.mark.parametrize("width", [5, 384, 768, 1500])
def test_the_variance_of_a_constant_row_is_0_whatever_lies_around_it(width: int, value: float) -> None:
    rows = torch.randn(70, width, generator=torch.Generator().manual_seed(0))
    rows[12] = rows[40] = value
    samples = normprobe.record(nn.Linear(width, 1), [rows]).samples.query("site == 'input'")
    constant = samples[samples["example"].isin([12, 40])]
    assert constant["variance"].tolist() == [0, 0]
    assert constant["mean"].tolist() == [float(rows[12, 0])] * 2


@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 33, 520])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_are_counted_wherever_they_lie(width: int, dtype: torch.dtype) -> None:
    rows = torch.randn(45, width, dtype=dtype, generator=torch.Generator().manual_seed(width)) + 3
    column = torch.arange(width)
    rows[(column * 5 + 1) % 45, column] = torch.finfo(dtype).smallest_normal / 4
    rows[column % 45, column] = 0
    rows[(column * 7 + 3) % 45, column] = -0.0
    model = nn.Linear(width, 1).to(dtype)
    found = normprobe.record(model, [rows]).features.query("site == 'input'")
    assert found["zero_fraction"].tolist() == ((rows == 0).sum(0).double() / 45).tolist()
