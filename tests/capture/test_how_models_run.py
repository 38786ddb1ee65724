"""However a model is run, its layers are measured alike: generation, wrappers, offloading, threads."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.bart import BartConfig, BartForConditionalGeneration
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

import normprobe
from normprobe.kernels import dispatch

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=None, **SHAPE
    )
    return LlamaForCausalLM(config).eval()


def _numbers(recording: normprobe.Recording) -> Any:
    """What a recording measured of each layer and site, apart from who holds its extremes."""
    frame = recording.layers.set_index(["layer", "site"])
    return frame[["calls", "n_samples", "mean", "variance", "min", "max", "abs_mean"]]


def _hold(found: normprobe.Recording, expected: normprobe.Recording) -> None:
    one, other = _numbers(found), _numbers(expected)
    assert one.index.tolist() == other.index.tolist()
    assert one[["calls", "n_samples"]].equals(other[["calls", "n_samples"]])
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class TestGeneration:
    prompt = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])

    def _generated(self, model: nn.Module, **options: Any) -> tuple[normprobe.Recording, Tensor]:
        given = {
            "input_ids": self.prompt,
            "attention_mask": self.mask,
            "max_new_tokens": 4,
            "do_sample": False,
        }
        with torch.no_grad(), normprobe.Probe(model, samples="all") as probe:
            tokens = model.generate(**given, **options)
        return probe.recording, tokens

    def test_prompt_and_steps_with_left_padding_and_a_mask_that_grows(self, llama: LlamaForCausalLM) -> None:
        expected = llama.generate(
            input_ids=self.prompt, attention_mask=self.mask, max_new_tokens=4, do_sample=False
        )
        recording, tokens = self._generated(llama)
        assert torch.equal(tokens, expected)
        assert (recording.meta["forwards"], recording.meta["measured"]) == (4, 4)
        layers = recording.layers.set_index(["layer", "site"])
        assert set(recording.ledger["calls"]) == {4}
        assert set(recording.ledger["reason"]) == {""}
        projection = layers.loc[("model.layers.1.mlp.up_proj", "input")]
        assert (projection["n_samples"], projection["masked"]) == (8 + 3 * 2, 2)
        samples = recording.samples.query("layer == 'model.norm' and site == 'output'")
        assert sorted(samples.query("call == 0 and example == 0")["position"]) == [0, 1, 2]
        assert sorted(samples.query("call == 2")["example"]) == [4, 5]

    def test_with_and_without_a_cache_the_new_tokens_are_the_same(self, llama: LlamaForCausalLM) -> None:
        steps, tokens = self._generated(llama)
        whole, again = self._generated(llama, use_cache=False)
        assert torch.equal(tokens, again)
        layer = "layer == 'model.norm' and site == 'output' and call == 3"
        last = steps.samples.query(layer)["mean"].to_numpy()
        # Without a cache the last forward reads everything anew; of each example the last position is new.
        everything = whole.samples.query(layer).sort_values("position").groupby("example")["mean"].last()
        np.testing.assert_allclose(np.sort(last), np.sort(everything.to_numpy()), atol=1e-5)

    def test_an_encoder_decoder(self) -> None:
        torch.manual_seed(0)
        sizes = {"d_model": 16, "vocab_size": 50, "encoder_layers": 1, "decoder_layers": 1}
        sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "decoder_start_token_id": 1}
        config = BartConfig(forced_eos_token_id=None, **sizes, **heads, **tokens)
        model = BartForConditionalGeneration(config).eval()
        recording, _ = self._generated(model)
        layers = recording.layers.set_index(["layer", "site"])["n_samples"]
        assert layers["model.encoder.layers.0.fc1", "input"] == 8
        assert layers["model.decoder.layers.0.fc1", "input"] == 4 * 2
        assert set(recording.ledger["status"]) == {"fired"}

    def test_beams_and_sampling(self, llama: LlamaForCausalLM) -> None:
        for options in ({"num_beams": 2}, {"do_sample": True, "top_k": 5}):
            given = {"input_ids": self.prompt, "attention_mask": self.mask, "max_new_tokens": 3, **options}
            torch.manual_seed(1)
            expected = llama.generate(**given)
            torch.manual_seed(1)
            with torch.no_grad(), normprobe.Probe(llama) as probe:
                assert torch.equal(llama.generate(**given), expected)
            assert set(probe.recording.ledger["calls"]) == {3}


class Net(nn.Module):
    """One layer of each family, an attention whose projections only functions show, and a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.BatchNorm1d(6))
        self.attention, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 3)
        self.reentrant: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x) if self.reentrant is None else self._checkpointed(x)
        x = x.unsqueeze(1)
        return self.head(self.attention(x, x, x)[0].squeeze(1))

    def _checkpointed(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


NAMES = ["inner.0", "inner.1", "inner.3", "attention.in_proj", "attention.out_proj", "head"]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def _batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=generator) for _ in range(count)]


def _recorded(model: nn.Module, run: Callable[[Tensor], Any] | None = None) -> normprobe.Recording:
    with normprobe.Probe(model, part="x") as probe:
        for batch in _batches():
            (run or model)(batch)
    return probe.recording


@pytest.fixture
def expected(net: Net) -> normprobe.Recording:
    return _recorded(copy.deepcopy(net))


def _same(found: normprobe.Recording, expected: normprobe.Recording) -> None:
    """The same layers under the same names, the same numbers to the last bit."""
    assert found.ledger["layer"].tolist() == NAMES
    assert found.layers.equals(expected.layers)
    assert found.samples.equals(expected.samples)
    assert found.features.equals(expected.features)


class TestTraining:
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpointing_counts_each_sample_once(
        self, net: Net, expected: normprobe.Recording, reentrant: bool
    ) -> None:
        net.reentrant = reentrant
        found = _recorded(net, lambda x: net(x.requires_grad_()).sum().backward())
        vectors = ["running_mean", "running_var"]  # which recomputation updates once more
        assert found.layers.equals(expected.layers)
        assert found.samples.equals(expected.samples)
        assert found.features.drop(columns=vectors).equals(expected.features.drop(columns=vectors))

    def test_evaluation_and_training_in_turn(self, net: Net) -> None:
        with normprobe.Probe(net) as probe:
            for train in (True, False, True):
                net.train(train)
                net(_batches(1)[0])
        ledger = probe.recording.ledger
        assert set(ledger["training"]) == {"train; eval"}
        assert set(ledger["calls"]) == {3}
        assert ledger["via"].tolist() == ["hook"] * 3 + ["functional"] * 2 + ["hook"]


class TestAutocast:
    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
    def test_what_functions_show_is_what_they_compute(self, net: Net) -> None:
        net.eval()
        with torch.autocast("cpu", torch.bfloat16):
            expected = [net(batch) for batch in _batches()]
            with normprobe.Probe(net) as probe:
                found = [net(batch) for batch in _batches()]
        assert all(map(torch.equal, found, expected))
        layers = probe.recording.layers.set_index(["layer", "site"])
        assert layers.loc[("attention.in_proj", "output"), "dtype"] == "bfloat16"
        assert layers.loc[("attention.in_proj", "output"), "calls"] == 3


class TestInferenceMode:
    def test_a_model_and_data_made_in_it(self) -> None:
        with torch.inference_mode():
            torch.manual_seed(0)
            model = Net().eval()
            expected = [model(batch) for batch in _batches()]
            with normprobe.Probe(model) as probe:
                found = [model(batch) for batch in _batches()]
        assert all(map(torch.equal, found, expected))
        assert set(probe.recording.ledger["grad"]) == {"inference"}
        assert set(probe.recording.ledger["calls"]) == {3}

    @pytest.mark.parametrize("compiled", [True, False])
    def test_before_a_call_outside_it(
        self, net: Net, compiled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not compiled:
            monkeypatch.setattr(dispatch, "compiled", lambda: None)
        net.eval()
        with normprobe.Probe(net) as probe:
            for mode, batch in zip((torch.inference_mode, torch.no_grad), _batches(2), strict=True):
                with mode():
                    net(batch)
        assert set(probe.recording.ledger["calls"]) == {2}
        assert set(probe.recording.ledger["reason"]) == {""}


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class TestWrappers:
    def test_data_parallel(self, net: Net, expected: normprobe.Recording) -> None:
        _same(_recorded(nn.DataParallel(net)), expected)

    @pytest.mark.usefixtures("group")
    @pytest.mark.filterwarnings("ignore")
    def test_distributed_data_parallel(self, net: Net, expected: normprobe.Recording) -> None:
        wrapped = nn.parallel.DistributedDataParallel(net)
        _same(_recorded(wrapped, lambda x: wrapped(x).sum().backward()), expected)

    @pytest.mark.usefixtures("group")
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("parts", [[], ["inner", "head"], ["attention"]])
    def test_fully_sharded(self, net: Net, expected: normprobe.Recording, parts: list[str]) -> None:
        fsdp = pytest.importorskip("torch.distributed.fsdp")
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        if not hasattr(fsdp, "fully_shard"):
            pytest.skip("this torch has no fully_shard")
        for part in parts:
            fsdp.fully_shard(getattr(net, part), mesh=mesh)
        fsdp.fully_shard(net, mesh=mesh)
        found = _recorded(net, lambda x: net(x).sum().backward())
        if parts == ["attention"]:  # which gets queries, keys and values as tensors of their own then
            ledger = found.ledger.set_index("layer")
            assert ledger.loc["attention.in_proj", "status"] == "bypassed"
            assert ledger.drop("attention.in_proj")["calls"].tolist() == [3] * 8
            return
        assert found.ledger["layer"].tolist() == NAMES
        assert set(found.ledger["calls"]) == {3}
        _hold(found, expected)  # weights gathered anew lie elsewhere in memory, and sums round otherwise

    @pytest.mark.usefixtures("group")
    @pytest.mark.filterwarnings("ignore")
    def test_tensor_parallel(self) -> None:
        parallel = pytest.importorskip("torch.distributed.tensor.parallel")
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
        batch = _batches(1)[0]
        with normprobe.Probe(model, part="x") as probe:
            model(batch)
        expected = probe.recording
        parallel.parallelize_module(model, mesh, plan)
        bare = model(batch)
        with normprobe.Probe(model, part="x") as probe:
            assert torch.equal(model(batch), bare)
        _hold(probe.recording, expected)


class TestOffloading:
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("where", ["cpu", "disk"])
    def test_accelerate(self, llama: LlamaForCausalLM, where: str, tmp_path: Path) -> None:
        accelerate = pytest.importorskip("accelerate")
        expected = normprobe.record(llama, [self.ids], part="x")
        output = llama(self.ids).logits
        if where == "cpu":
            accelerate.cpu_offload(llama, execution_device="cpu")
        else:
            accelerate.disk_offload(llama, str(tmp_path), execution_device="cpu")
        assert all(parameter.is_meta for parameter in llama.parameters())
        with torch.no_grad(), normprobe.Probe(llama, part="x") as probe:
            found = llama(self.ids).logits
        assert torch.equal(found, output)
        assert all(parameter.is_meta for parameter in llama.parameters())
        for table in ("layers", "samples", "features"):
            assert getattr(probe.recording, table).equals(getattr(expected, table))
        assert probe.recording.ledger["kind"].tolist() == expected.ledger["kind"].tolist()

    def test_meta_tensors_are_declared(self, llama: LlamaForCausalLM) -> None:
        llama.to("meta")
        with torch.no_grad(), normprobe.Probe(llama.model.layers[0].mlp) as probe:
            probe.model(torch.zeros(2, 5, llama.config.hidden_size, device="meta"))
        ledger = probe.recording.ledger
        assert set(ledger["calls"]) == {0}
        assert ledger["reason"].str.contains("a call on meta tensors, which hold no numbers").all()

    def test_parts_on_several_devices(self) -> None:
        class Apart(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.here, self.there = nn.Linear(4, 4), nn.Linear(4, 4, device="meta")

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                x = self.here(x)
                return x, self.there(x.to("meta"))

        with normprobe.Probe(Apart()) as probe:
            probe.model(_batches(1)[0])
        ledger = probe.recording.ledger.set_index("layer")
        assert ledger.loc["here", ["calls", "reason"]].tolist() == [1, ""]
        assert ledger.loc["there", "calls"] == 0
        assert probe.recording.meta["device"] == "cpu; meta"


class TestManyAtOnce:
    def test_four_threads(self, net: Net) -> None:
        net.eval()
        batches = _batches(40)
        expected = normprobe.record(net, batches)
        barrier = threading.Barrier(4)

        def work(mine: list[Tensor]) -> list[Tensor]:
            barrier.wait()
            return [net(batch) for batch in mine]

        with normprobe.Probe(net) as probe, ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(work, [batches[start::4] for start in range(4)]))
        assert set(probe.recording.ledger["calls"]) == {40}
        assert probe.recording.meta["forwards"] == 40
        assert set(probe.recording.layers["n_samples"]) == {200}
        _hold(probe.recording, expected)
        for start, found in enumerate(outputs):
            assert all(map(torch.equal, found, (net(batch) for batch in batches[start::4])))

    def test_threads_in_modes_of_their_own(self, net: Net) -> None:
        net.eval()

        def work(mode: Callable[[], Any]) -> None:
            with mode():
                for batch in _batches(5):
                    net(batch)

        with normprobe.Probe(net) as probe, ThreadPoolExecutor(3) as pool:
            list(pool.map(work, [torch.no_grad, torch.enable_grad, torch.inference_mode]))
        ledger = probe.recording.ledger
        assert set(ledger["calls"]) == {15}
        assert {mode for modes in ledger["grad"] for mode in modes.split("; ")} == {
            "grad",
            "no_grad",
            "inference",
        }

    def test_a_server_of_coroutines(self, net: Net) -> None:
        net.eval()
        batches = _batches(12)
        expected = normprobe.record(net, batches)

        async def answer(batch: Tensor, thread: bool) -> Tensor:
            await asyncio.sleep(0)
            return await asyncio.to_thread(net, batch) if thread else net(batch)

        async def serve() -> list[Tensor]:
            return await asyncio.gather(*(answer(batch, i % 3 == 0) for i, batch in enumerate(batches)))

        with torch.no_grad(), normprobe.Probe(net) as probe:
            outputs = asyncio.run(serve())
        assert set(probe.recording.ledger["calls"]) == {12}
        _hold(probe.recording, expected)
        assert all(torch.equal(found, net(batch)) for found, batch in zip(outputs, batches, strict=True))
        assert torch._C._len_torch_function_stack() == 0
