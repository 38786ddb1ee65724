from collections.abc import Callable
from typing import Any, Literal

import torch
from numpy.typing import NDArray

_Held = tuple[float, int, int]
_News = tuple[_Held | None, _Held | None] | None

def hashes(seed: int, example: NDArray[Any], position: NDArray[Any], /) -> bytes: ...

class Plan:
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
    ) -> Plan: ...

class Delta: ...

class Memory:
    def __new__(cls) -> Memory: ...

class State:
    def __new__(cls, features: int, axis: int, trailing: int, unbatched: int, by_outer: bool, /) -> State: ...
    def measure(self, tensor: torch.Tensor, plan: Plan, threads: int, small: int, /) -> Delta | None: ...
    def add(self, delta: Delta, plan: Plan, /) -> _News: ...
    def hear(
        self,
        tensor: torch.Tensor,
        plan: Plan,
        raw: Plan | None,
        memory: Memory,
        threads: int,
        small: int,
        /,
    ) -> Literal[False] | _News: ...
    def keep(self, tensor: torch.Tensor, plan: Plan, /) -> bool: ...
    def nbytes(self) -> int: ...
    def fields(self, slots: int, raw: int, /) -> tuple[bytes, bytes, float, float, float, bytes, int]: ...

class Account:
    samples: Any
    rows: Any
    dtype: Any
    state: Any
    cell: Any
    calls: int
    n_samples: int
    masked: int
    firings: int
    decided: bool
    def __new__(cls, samples: Any, rows: Any, /) -> Account: ...

class Pass:
    owner: Any
    session: Any
    memory: Any
    threads: int
    measured: bool
    def __new__(cls, owner: Any, measured: bool, /) -> Pass: ...
    def enter(self, layer: int, /) -> None: ...
    def leave(self, layer: int, /) -> None: ...
    def is_open(self, layer: int, /) -> bool: ...
    def take_turn(self, layer: int, behind: bool, /) -> int: ...

class Inside:
    @property
    def forward(self) -> Any: ...
    def begin(self, owner: Any, measured: bool, /) -> Pass: ...
    def enter(self, forward: Any, /) -> None: ...
    def leave(self) -> None: ...
    def clear(self) -> None: ...

class Lock:
    def __enter__(self) -> Lock: ...
    def __exit__(self, *error: object) -> None: ...

class Cell:
    def __new__(cls) -> Cell: ...
    def settle(self, agreed: Agreed, now: Pass, /) -> None: ...

class Agreed:
    def __new__(
        cls,
        *,
        shape: tuple[int, ...],
        samples: Any,
        rows: Any,
        samples_after: Any,
        rows_after: Any,
        plan: Plan,
        raw_plan: Plan | None,
        small: int,
        placed: Any,
        n_samples: int,
        masked: int,
        masked_by: str,
    ) -> Agreed: ...

class Ear:
    def __new__(
        cls,
        long_way: Callable[..., None],
        watch: Any,
        site: Any,
        behind: bool,
        inside: Inside,
        lock: Lock,
        hold: Callable[..., None],
        snapshot: Callable[..., None],
        /,
    ) -> Ear: ...
    def __call__(self, *args: Any) -> None: ...

class Gate:
    def __new__(cls, long_way: Callable[..., None], model: Any, behind: bool, inside: Inside, /) -> Gate: ...
    def __call__(self, *args: Any) -> None: ...

def learn(
    dtypes: tuple[torch.dtype, ...],
    plain: tuple[type, ...],
    modes: tuple[Callable[[], int], Callable[[], bool], Callable[[], bool]],
    exchange: Any,
    /,
) -> None: ...
