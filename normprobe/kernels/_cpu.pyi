from typing import Any

import torch
from numpy.typing import NDArray

class Plan:
    def __new__(
        cls,
        outer: int,
        inner: int,
        by_outer: bool,
        real: NDArray[Any] | None,
        keep: NDArray[Any],
        slots: NDArray[Any],
        raw_rows: NDArray[Any],
        raw_slots: NDArray[Any],
        /,
    ) -> Plan: ...

class Delta:
    def holders(self) -> tuple[float, int, int, float, int, int]: ...

class State:
    def __new__(cls, features: int, axis: int, trailing: int, unbatched: int, by_outer: bool, /) -> State: ...
    def measure(self, tensor: torch.Tensor, plan: Plan, threads: int, small: int, /) -> Delta | None: ...
    def add(self, delta: Delta, plan: Plan, /) -> int: ...
    def keep(self, tensor: torch.Tensor, plan: Plan, /) -> bool: ...
    def fields(self, slots: int, raw: int, /) -> tuple[bytes, bytes, float, float, float, bytes, int]: ...

def learn(dtypes: tuple[torch.dtype, ...], /) -> None: ...
