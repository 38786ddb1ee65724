"""Batches that the user's own code yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Batch, ImportPath, Inputs
from normprobe.loading.inputs.to_model import move_batch
from normprobe.loading.models import LoadedModel, call_user_code, import_object


def prepare(source: ImportPath, model: LoadedModel) -> Inputs:
    """Make inputs of a callable that yields batches, or of an iterable of batches.

    Raises:
        DataError: it cannot be imported, raises, or yields something that is not a batch.
    """
    named = import_object(source.where, DataError)
    batches = UserBatches(named, source.where, model.device, source.limit)
    total = None
    # What is called gives its batches only when it is, and how many shows at the end.
    if isinstance(named, Iterable) and isinstance(named, Sized):
        total = len(named) if source.limit is None else min(len(named), source.limit)
    return Inputs(batches, total, f"batches from {source.where}")


@dataclass(frozen=True)
class UserBatches:
    """The batches of a user's callable or iterable, checked and moved to the device; called anew each time.

    Attributes:
        named: what the import path names.
        where: the import path, for messages.
        device: where the batches belong.
        limit: most batches; None for all.
    """

    named: Any = field(repr=False)
    where: str
    device: torch.device
    limit: int | None

    def __iter__(self) -> Iterator[Batch]:
        iterator = self._iterator()
        number = 0
        while self.limit is None or number < self.limit:
            # Each step, as a generator raises where it is advanced; not the yield, where the model runs.
            with call_user_code(self.where, DataError):
                try:
                    batch = next(iterator)
                except StopIteration:
                    break
                batch = move_batch(self._checked(batch, number), self.device)
            yield batch
            number += 1
        if number == 0:
            raise DataError(f"{self.where} yielded no batches")

    def _iterator(self) -> Iterator[Any]:
        with call_user_code(self.where, DataError):
            batches = self.named
            # A DataLoader, say, is iterated over even if it can be called; a class is called.
            if callable(batches) and (not isinstance(batches, Iterable) or isinstance(batches, type)):
                batches = batches()
            if isinstance(batches, Tensor | np.ndarray | Mapping):
                return iter([batches])  # one batch: iterating over it would give its rows or names
            if not isinstance(batches, Iterable):
                kind = type(batches).__name__
                raise DataError(f"{self.where} returned a {kind}; something that yields batches was needed")
            return iter(batches)

    def _checked(self, batch: Any, number: int) -> Any:
        if isinstance(batch, Tensor | np.ndarray | Mapping | list | tuple):
            return batch
        raise DataError(
            f"batch {number} of {self.where} is a {type(batch).__name__}; a tensor, a tuple "
            "(positional arguments) or a dict (keyword arguments) was needed"
        )
