from collections.abc import Callable
from typing import Any, Literal

import torch
from numpy.typing import NDArray

_Held = tuple[float, int, int]
_News = tuple[_Held | None, _Held | None] | None

INPUT: int
OUTPUT: int
MOMENT_FIELDS: tuple[str, ...]
SAMPLE_FIELDS: int
CENTRAL_FIELDS: int
BINS: int

def hashes(seed: int, example: NDArray[Any], position: NDArray[Any], /) -> bytes: ...

class CompiledChoice:
    def __new__(
        cls,
        samples: int,
        rows: int,
        real: NDArray[Any] | None,
        keep: NDArray[Any],
        slots: NDArray[Any],
        raw_rows: NDArray[Any],
        raw_slots: NDArray[Any],
        /,
    ) -> CompiledChoice: ...

class BatchMoments: ...

class RecentMoments:
    def __new__(cls) -> RecentMoments: ...

class AccumulatorState:
    def __new__(
        cls, features: int, axis: int, trailing: int, unbatched: int, by_outer: bool, /
    ) -> AccumulatorState: ...
    def measure(
        self, tensor: torch.Tensor, choice: CompiledChoice, threads: int, small: int, /
    ) -> BatchMoments | None: ...
    def add(self, delta: BatchMoments, choice: CompiledChoice, /) -> _News: ...
    def observe(
        self,
        tensor: torch.Tensor,
        choice: CompiledChoice,
        raw: CompiledChoice | None,
        recent: RecentMoments,
        threads: int,
        small: int,
        /,
    ) -> Literal[False] | _News: ...
    def keep(self, tensor: torch.Tensor, choice: CompiledChoice, /) -> bool: ...
    def nbytes(self) -> int: ...
    def fields(self, slots: int, raw: int, /) -> tuple[bytes, bytes, float, float, float, bytes, int]: ...

class Distribution:
    def __new__(
        cls,
        features: int,
        axis: int,
        trailing: int,
        unbatched: int,
        by_outer: bool,
        kurtosis: bool,
        quantiles: bool,
        /,
    ) -> Distribution: ...
    def measure(
        self, tensor: torch.Tensor, choice: CompiledChoice, threads: int, small: int, /
    ) -> Distribution | None: ...
    def add(self, found: Distribution, choice: CompiledChoice, /) -> None: ...
    def fields(self, slots: int, /) -> tuple[bytes, bytes, bytes]: ...
    def nbytes(self) -> int: ...

class SiteCounters:
    samples: Any
    rows: Any
    dtype: Any
    state: Any
    plan_slot: Any
    calls: int
    n_samples: int
    masked: int
    firings: int
    decided: bool
    def __new__(cls, samples: Any, rows: Any, /) -> SiteCounters: ...

class ForwardState:
    owner: Any
    session: Any
    recent: Any
    threads: int
    measured: bool
    def __new__(cls, owner: Any, measured: bool, sites: int, /) -> ForwardState: ...
    def enter(self, layer: int, /) -> None: ...
    def leave(self, layer: int, /) -> None: ...
    def is_open(self, layer: int, /) -> bool: ...
    def next_repeat(self, layer: int, site: int, /) -> int: ...

class CurrentForward:
    @property
    def forward(self) -> Any: ...
    def begin(self, owner: Any, measured: bool, sites: int, /) -> ForwardState: ...
    def enter(self, forward: Any, /) -> None: ...
    def leave(self) -> None: ...
    def clear(self) -> None: ...

class Lock:
    def __enter__(self) -> Lock: ...
    def __exit__(self, *error: object) -> None: ...

class PlanSlot:
    def __new__(cls) -> PlanSlot: ...
    def store(self, cached: CachedPlan, now: ForwardState, /) -> None: ...
    def choice(self, forward: ForwardState, /) -> CompiledChoice | None: ...

class CachedPlan:
    def __new__(
        cls,
        *,
        shape: tuple[int, ...],
        samples: Any,
        rows: Any,
        samples_after: Any,
        rows_after: Any,
        choice: CompiledChoice,
        raw_choice: CompiledChoice | None,
        small: int,
        placement: Any,
        n_samples: int,
        masked: int,
        masked_by: str,
    ) -> CachedPlan: ...

class LayerHook:
    def __new__(
        cls,
        long_way: Callable[..., None],
        state: Any,
        site: Any,
        number: int,
        current: CurrentForward,
        lock: Lock,
        record_extremes: Callable[..., None],
        snapshot: Callable[..., None],
        /,
    ) -> LayerHook: ...
    def __call__(self, *args: Any) -> None: ...
    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]: ...

class ContainerHook:
    def __new__(
        cls, long_way: Callable[..., None], model: Any, behind: bool, current: CurrentForward, /
    ) -> ContainerHook: ...
    def __call__(self, *args: Any) -> None: ...
    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]: ...

def versions(tensors: tuple[torch.Tensor, ...], /) -> int: ...
def set_empty_hook(make: Callable[[], Any], /) -> None: ...
def configure(
    dtypes: tuple[torch.dtype, ...],
    plain: tuple[type, ...],
    modes: tuple[Callable[[], int], Callable[[], bool], Callable[[], bool]],
    exchange: Any,
    /,
) -> None: ...
