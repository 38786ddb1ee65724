"""Which tensors of a layer are measured beside its input and output: sites that users register."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from normprobe.errors import ViewError
from normprobe.vocabulary import INPUT, OUTPUT, add_site, sites

TensorOf = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Tensor | None]

_REGISTRY: dict[str, dict[type, TensorOf]] = {}
"""By name of a site, the classes whose layers have it and how each class's tensor is found."""

_COLOUR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)


def register_site(
    name: str,
    cls: type[nn.Module],
    *,
    tensor: TensorOf,
    label: str | None = None,
    colour: tuple[str, str] | None = None,
) -> None:
    """Measure one more tensor at each layer of a class; its subclasses have the site, too.

    >>> register_site("gate", GatedNorm, tensor=lambda module, args, kwargs, output: args[1])
    >>> register_site("state", MyCell, tensor=lambda module, args, kwargs, output: output[1], label="state")

    Layers of the class that a probe measures, made from now on, have the site beside `input` and `output`: in
    every table, in files, reports and comparisons. Its tensors read as the layer's do (the same feature axis,
    sample and padding mask), with features of their own number. Registering the same name again for another
    class adds that class; for the same class it replaces the function.

    Args:
        name: what the tables call the site; an identifier other than `input`, `output`, `in` and `out`.
        cls: the module class. A layer of a subclass takes the function of the nearest registered class.
        tensor: gives, from (module, args, kwargs, output) of a call that has ended, the tensor to measure;
            None where a call has none. It is called without gradients and must not write to its arguments.
            What it raises is counted as a reason in the ledger and never reaches the model.
        label: one or two words for people; by default the name. The first registration of a name counts.
        colour: its colour in figures, on light and on dark ground, each as ``#rrggbb``; by default a spare
            one. The first registration of a name counts.

    Raises:
        ViewError: ``cls`` is no module class, or an argument is not of the above.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ViewError(f"register_site needs a subclass of torch.nn.Module, got {cls!r}")
    _check_site(cls.__name__, name, tensor, label, colour)
    # Only after every check: a refused registration leaves no site behind.
    add_site(name, label or name, colour)
    _REGISTRY.setdefault(name, {})[cls] = tensor


def _check_site(cls: str, name: Any, tensor: Any, label: Any, colour: Any) -> None:
    """Refuse a site that is declared wrongly, in words."""
    # A layer's summary calls the two "in" and "out".
    if name in (INPUT, OUTPUT, "in", "out"):
        raise ViewError(f"site {name!r} of {cls} is one that every layer has; choose another name")
    if not (isinstance(name, str) and name.isidentifier()):
        raise ViewError(f"site {name!r} of {cls} is no identifier; choose a name such as 'gate'")
    if not callable(tensor):
        raise ViewError(
            f"tensor {tensor!r} of {cls} is no function; give one of (module, args, kwargs, output)"
        )
    if not (label is None or (isinstance(label, str) and label)):
        raise ViewError(f"label {label!r} of {cls} is no text; give one or two words, or None")
    pair = isinstance(colour, (tuple, list)) and len(colour) == 2
    if colour is not None and not (pair and all(isinstance(c, str) and _COLOUR.fullmatch(c) for c in colour)):
        raise ViewError(
            f"colour {colour!r} of {cls} is no pair; give ('#rrggbb', '#rrggbb') for light and dark"
        )


def registered_sites(module: nn.Module) -> dict[str, TensorOf]:
    """The further sites of a module in the order of the vocabulary, and how their tensors are found."""
    # Most processes register none: then entering a probe costs nothing for it.
    found = {}
    for site in sites() if _REGISTRY else ():
        classes = _REGISTRY.get(site.name, {})
        cls = next((cls for cls in type(module).__mro__ if cls in classes), None)
        if cls is not None:
            found[site.name] = classes[cls]
    return found
