"""Which sequence of a forward the outputs of its layers are of."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from torch import Tensor, UntypedStorage

from normprobe.capture.hooks.graph_calls import in_graph

_UNKNOWN = (None, 0, None)


@dataclass(eq=False)
class TracedTensors:
    """Which sequence the outputs of a forward's layers are of, as long as they live.

    Attributes:
        outputs: of an output, by its address, a weak reference to its storage, its size and its sequence.
            The storage, for a view may outlive the tensor that it was made of.
        parents: of the modules that hold layers, the sequence all of these worked on so far, and the first
            two sizes; None where they worked on several.
    """

    outputs: dict[int, tuple[weakref.ref[UntypedStorage], int, str]] = field(default_factory=dict)
    parents: dict[str, tuple[str, tuple[int, ...]] | None] = field(default_factory=dict)

    def note(self, name: str, tensor: Tensor, reads: str) -> None:
        """Note that this output of a layer is of a sequence."""
        # Without numbers of their own all tensors would lie at one address.
        # Within a graph memory is used again while its storage lives.
        if not in_graph() and (at := address(tensor)):
            self.outputs[at] = weakref.ref(tensor.untyped_storage()), tensor.numel(), reads
        # Where layers of one module differ, as queries and keys do, the module says nothing of the next one.
        parent, known = name.rpartition(".")[0], (reads, tuple(tensor.shape[:2]))
        self.parents[parent] = known if self.parents.get(parent, known) == known else None

    def made(self, tensor: Tensor) -> str | None:
        """The sequence of the output that a tensor is, seen through a view."""
        # By size, too: a slice may begin where the whole does.
        storage, numel, reads = self.outputs.get(address(tensor), _UNKNOWN)
        # An address is used again once what lay there is gone.
        return reads if storage is not None and storage() is not None and numel == tensor.numel() else None

    def beside(self, name: str, tensor: Tensor) -> str | None:
        """The sequence of the layers in the same module, where all had one, and tensors of this size."""
        beside = self.parents.get(name.rpartition(".")[0])
        return beside[0] if beside is not None and beside[1] == tuple(tensor.shape[:2]) else None


def address(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; 0 if it has none of its own."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0
