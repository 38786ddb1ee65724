"""Which kernel measures distributions: the extension on the CPU if it is there, else plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.central_moments import CENTRAL_FIELDS, CentralMoments
from normprobe.kernels.distributions.options import (
    Distribution,
    DistributionAccumulator,
    DistributionOptions,
)
from normprobe.kernels.types import AxisRoles

if TYPE_CHECKING:
    import torch


def distribution_accumulator(
    features: int, axis_roles: AxisRoles, options: DistributionOptions, device: torch.device
) -> DistributionAccumulator:
    """A new accumulator of the distribution of a site whose tensors lie on this device.

    Args:
        features: how many features its tensors have.
        axis_roles: how their axes read.
        options: what is measured.
        device: where they lie.
    """
    # The extension reads host memory; numbers elsewhere would have to be copied and waited for.
    compiled = dispatch.compiled() if device.type == "cpu" else None
    if compiled is not None:
        return CompiledDistribution(compiled, features, axis_roles, options)
    # Where the extension is there, nothing else of this module needs torch.
    from normprobe.kernels.distributions.torch_distribution import TorchDistribution

    return TorchDistribution(features, options, device)


class CompiledDistribution:
    """A distribution in the extension; see `DistributionAccumulator`."""

    def __init__(
        self, compiled: Any, features: int, axis_roles: AxisRoles, options: DistributionOptions
    ) -> None:
        self._compiled, self._features, self._options = compiled, features, options
        # C has no None, and no tensor has -1 axes.
        unbatched = -1 if axis_roles.unbatched is None else axis_roles.unbatched
        roles = axis_roles.axis, axis_roles.trailing, unbatched, axis_roles.by_example
        self._state = compiled.Distribution(features, *roles, *options)
        # Reads what was arranged as (samples, rows, features), however the site's own tensors read.
        self._reader = compiled.Distribution(features, -1, 1, -1, True, *options)

    def choice(self, choice: Choice) -> Any:
        """A choice as the extension takes it."""
        return self._compiled.compiled_choice(choice)

    def measure_chosen(self, tensor: torch.Tensor, choice: Any) -> Any:
        """The distribution of a tensor by its own shape and strides; None where it cannot be read so."""
        return self._state.measure(tensor, choice, self._compiled.threads(), self._compiled.SMALL)

    def merge_chosen(self, found: Any, choice: Any) -> None:
        """Add the distribution of a tensor that was measured with this choice, which is the extension's."""
        self._state.add(found, choice)

    def measure(self, values: torch.Tensor, choice: Choice) -> Any:
        """The distribution of a tensor of shape (samples, rows, features)."""
        # Another device, a subclass or a lazy minus sign: its numbers are not where the extension looks.
        plain = self._compiled.plain(values)
        given = self.choice(choice), self._compiled.threads(), self._compiled.SMALL
        found = self._reader.measure(plain, *given)
        # Strides the extension does not walk: one copy is cheaper than leaving the tensor out.
        return self._reader.measure(plain.contiguous(), *given) if found is None else found

    def merge(self, found: Any, choice: Choice) -> None:
        """Add the distribution of a tensor that was measured with this choice."""
        self._state.add(found, self.choice(choice))

    def distribution(self, slots: int) -> Distribution:
        """Everything so far."""
        columns, kept, counts = self._state.fields(slots)
        fields = len(CENTRAL_FIELDS)
        # Copies: the extension's answer is bytes, whose arrays numpy will not let anyone write to.
        return Distribution(
            features=CentralMoments(*np.frombuffer(columns).reshape(fields, self._features).copy())
            if self._options.kurtosis
            else None,
            kept=np.frombuffer(kept).reshape(-1, fields).copy() if self._options.kurtosis else None,
            counts=np.frombuffer(counts, np.int64).copy() if self._options.quantiles else None,
        )

    def nbytes(self) -> int:
        """How many bytes it takes."""
        size: int = self._state.nbytes()
        return size
