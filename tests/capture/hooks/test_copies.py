"""Copies and pickles made inside the block: no hook in them, and no need of normprobe to load them."""

from __future__ import annotations

import copy
import copyreg
import gc
import io
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import weakref
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.hooks.handles import Hooks

# Models are copied inside blocks, and most are not called there.
pytestmark = pytest.mark.filterwarnings("ignore:nothing was measured")

NAMES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    ).eval()


def data() -> Tensor:
    return torch.linspace(-1, 1, 30).reshape(5, 6)


def saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def through_python(model: nn.Module) -> bytes:
    """By the pickler that joblib and others build on, which is Python."""
    file = io.BytesIO()
    pickle._Pickler(file).dump(model)  # type: ignore[attr-defined]
    return file.getvalue()


WRITERS: dict[str, Callable[[nn.Module], bytes]] = {
    "torch.save": saved,
    **{f"protocol {p}": lambda m, p=p: pickle.dumps(m, protocol=p) for p in range(6)},  # type: ignore[misc]
    "Python's pickler": through_python,
    "multiprocessing": lambda model: bytes(ForkingPickler.dumps(model)),
}


def entries(model: nn.Module) -> int:
    return sum(len(getattr(module, name)) for module in model.modules() for name in NAMES)


@pytest.fixture(params=["hooks alone", "after forwards", "two probes", "side by side"])
def probed(request: pytest.FixtureRequest) -> Any:
    """A model inside a block, in each of the ways in which hooks come to be in it."""
    model = net()
    if request.param == "side by side":
        hooks = Hooks()
        for module in model.modules():
            hooks.before(module, lambda *_: None)
            hooks.after(module, lambda *_: None, always=True)
        yield model
        hooks.remove()
    else:
        with normprobe.Probe(model):
            if request.param == "hooks alone":
                yield model
            elif request.param == "after forwards":
                for _ in range(3):
                    model(data())
                yield model
            else:
                with normprobe.Probe(model):
                    model(data())
                    yield model


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_pickled_names_nothing_of_normprobe_and_holds_no_hook(probed: nn.Module, writer: str) -> None:
    written = WRITERS[writer](probed)
    assert b"normprobe" not in written
    loaded = (
        torch.load(io.BytesIO(written), weights_only=False)
        if writer == "torch.save"
        else pickle.loads(written)
    )
    assert entries(loaded) == 0
    assert torch.equal(loaded(data()), probed(data()))


def test_what_is_pickled_is_what_the_bare_model_gives_to_the_byte() -> None:
    model = net()
    bare = pickle.dumps(model)
    with normprobe.Probe(model):
        assert pickle.dumps(model) == bare
        model(data())
        assert pickle.dumps(model) == bare


def test_copies_have_no_entry_and_go_their_own_way(probed: nn.Module) -> None:
    for twin in (copy.deepcopy(probed), torch.optim.swa_utils.AveragedModel(probed).module):
        assert entries(twin) == 0
        assert torch.equal(twin(data()), probed(data()))
        for name in NAMES:
            assert type(getattr(twin, name)) is OrderedDict
            assert getattr(twin, name) is not getattr(probed, name)


def test_the_models_own_hooks_are_copied() -> None:
    model = net()
    before = model[0].register_forward_pre_hook(own_hook, with_kwargs=True)
    with normprobe.Probe(model) as probe:
        model[1].register_forward_hook(own_hook, always_call=True)
        twin, again = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        model(data())
    for copied in (twin, again):
        assert list(copied[0]._forward_pre_hooks.values()) == [own_hook]
        assert list(copied[0]._forward_pre_hooks_with_kwargs) == [before.id]
        assert list(copied[1]._forward_hooks.values()) == [own_hook]
        assert len(copied[1]._forward_hooks_always_called) == 1
        assert entries(copied) == 4
    assert set(probe.recording.ledger["status"]) == {"fired"}
    assert entries(model) == 4


def own_hook(*_: object) -> None:
    """What a user may have registered."""


def test_a_file_of_the_block_loads_where_normprobe_is_not_installed(tmp_path: Path) -> None:
    model = net()
    expected = model(data())
    with normprobe.Probe(model):
        torch.save(model, tmp_path / "inside.pt")
        (tmp_path / "inside.pickle").write_bytes(pickle.dumps(model))
    torch.save((data(), expected), tmp_path / "numbers.pt")
    script = """
        import pickle, sys
        sys.modules["normprobe"] = None
        import torch
        x, expected = torch.load("numbers.pt")
        for model in (torch.load("inside.pt", weights_only=False), pickle.load(open("inside.pickle", "rb"))):
            assert torch.equal(model(x), expected)
        print("loaded")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "loaded", done.stderr


def _sum(model: nn.Module, queue: Any) -> None:
    queue.put(model(data()).sum().item())


def test_a_model_of_the_block_goes_to_a_process_that_is_spawned() -> None:
    context, model = multiprocessing.get_context("spawn"), net()
    queue = context.Queue()
    with normprobe.Probe(model):
        child = context.Process(target=_sum, args=(model, queue))
        child.start()
        found = queue.get(timeout=120)
        child.join()
    assert found == pytest.approx(model(data()).sum().item())


def test_a_copy_of_the_block_takes_torchs_fused_path_again() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 3, 8)
    with normprobe.Probe(model), torch.no_grad():
        model(x)
        twin = copy.deepcopy(model)

    def fused(module: nn.Module) -> int:
        with torch.no_grad(), torch.profiler.profile() as profile:
            module(x)
        return sum(event.name == "aten::_transformer_encoder_layer_fwd" for event in profile.events())

    assert fused(model) == fused(twin) == 2


def test_a_dictionary_of_the_users_keeps_its_entries() -> None:
    model = net()
    with normprobe.Probe(model):
        numbers = list(model[0]._forward_hooks_with_kwargs)
        mine = OrderedDict((number, True) for number in numbers)
        state = model.state_dict()
        assert copy.deepcopy(mine) == pickle.loads(pickle.dumps(mine)) == mine
        again = pickle.loads(pickle.dumps(state))
    assert again._metadata == state._metadata
    assert pickle.dumps(state) == pickle.dumps(model.state_dict())


class TestTheEntryOfThePickler:
    def test_is_there_in_the_block_alone(self) -> None:
        first, second = net(), net()
        assert OrderedDict not in copyreg.dispatch_table
        with normprobe.Probe(first):
            with normprobe.Probe(second):
                assert OrderedDict in copyreg.dispatch_table
            assert OrderedDict in copyreg.dispatch_table
        assert OrderedDict not in copyreg.dispatch_table

    def test_is_gone_after_an_error(self) -> None:
        with pytest.raises(ValueError, match="no"), normprobe.Probe(net()):
            raise ValueError("no")
        assert OrderedDict not in copyreg.dispatch_table

    def test_asks_one_of_the_users_and_gives_it_back(self) -> None:
        asked: list[int] = []

        def users(found: Any) -> Any:
            asked.append(len(found))
            return found.__reduce__()

        copyreg.pickle(OrderedDict, users)  # type: ignore[arg-type]
        try:
            model = net()
            with normprobe.Probe(model):
                assert b"normprobe" not in pickle.dumps(model)
            assert asked
            assert copyreg.dispatch_table[OrderedDict] is users
        finally:
            del copyreg.dispatch_table[OrderedDict]

    def test_is_left_to_a_user_who_wraps_it(self) -> None:
        model = net()
        try:
            with normprobe.Probe(model):
                ours = copyreg.dispatch_table[OrderedDict]

                def theirs(found: Any) -> Any:
                    return ours(found)

                copyreg.pickle(OrderedDict, theirs)  # type: ignore[arg-type]
            assert copyreg.dispatch_table[OrderedDict] is theirs
            with normprobe.Probe(model):
                assert entries(copy.deepcopy(model)) == 0
            assert copyreg.dispatch_table[OrderedDict] is theirs
        finally:
            del copyreg.dispatch_table[OrderedDict]
        assert entries(pickle.loads(pickle.dumps(model))) == 0

    def test_keeps_no_model_alive(self) -> None:
        model = net()
        probe = normprobe.Probe(model)
        probe.__enter__()
        gone = weakref.ref(model)
        del model, probe
        gc.collect()
        assert gone() is None
        with normprobe.Probe(net()):
            pass
        assert OrderedDict not in copyreg.dispatch_table


def test_a_model_pickled_inside_a_block_of_0_1_loads() -> None:
    """0.1 left an empty hook in each module, by the path `normprobe.hooks.Hook`."""
    model = net()
    model[0].register_forward_hook(own_hook)
    by_path = f"c{__name__}\nown_hook\n".encode()
    written = pickle.dumps(model, protocol=0)
    assert by_path in written
    loaded = pickle.loads(written.replace(by_path, b"cnormprobe.hooks\nHook\n(tR"))
    assert torch.equal(loaded(data()), net()(data()))
