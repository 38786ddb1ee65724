"""Batches that the user's own code yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Batch, Inputs, Reference
from normprobe.loading.inputs.to_model import move
from normprobe.loading.models import LoadedModel, call_user_code, resolve


def prepare(source: Reference, model: LoadedModel) -> Inputs:
    """Make inputs of a callable that yields batches, or of a thing that can be iterated over.

    Raises:
        DataError: It cannot be imported, raises, or yields something that is not a batch.
    """
    made = resolve(source.where, DataError)
    batches = UserBatches(made, source.where, model.device, source.limit)
    total = None
    if isinstance(made, Iterable) and isinstance(made, Sized):
        total = len(made) if source.limit is None else min(len(made), source.limit)
    return Inputs(batches, total, f"batches from {source.where}")


@dataclass(frozen=True)
class UserBatches:
    """The batches of a user's callable, checked and moved to the device; fresh ones each time."""

    made: Any = field(repr=False)
    where: str
    device: torch.device
    limit: int | None

    def __iter__(self) -> Iterator[Batch]:
        iterator = self._iterator()
        number = 0
        while self.limit is None or number < self.limit:
            with call_user_code(self.where, DataError):
                try:
                    batch = next(iterator)
                except StopIteration:
                    break
                batch = move(self._checked(batch, number), self.device)
            yield batch
            number += 1
        if number == 0:
            raise DataError(f"{self.where} yielded no batches")

    def _iterator(self) -> Iterator[Any]:
        with call_user_code(self.where, DataError):
            made = self.made
            if callable(made) and not (isinstance(made, Iterable) and not isinstance(made, type)):
                made = made()
            if isinstance(made, Tensor | np.ndarray | Mapping):
                return iter([made])
            if not isinstance(made, Iterable):
                raise DataError(
                    f"{self.where} returned a {type(made).__name__}; something that yields batches was needed"
                )
            return iter(made)

    def _checked(self, batch: Any, number: int) -> Any:
        if isinstance(batch, Tensor | np.ndarray | Mapping | list | tuple):
            return batch
        raise DataError(
            f"batch {number} of {self.where} is a {type(batch).__name__}; a tensor, a tuple "
            "(positional arguments) or a dict (keyword arguments) was needed"
        )
