"""Which token is padding, and how much of it stands at the ends of texts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_MARKS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")


class PadToken(NamedTuple):
    """The id of the padding token, and whether the same token also begins or ends a text."""

    token: int
    mark: bool


def pad_token(model: nn.Module) -> PadToken | None:
    """The padding token of a model, or None if neither its configuration nor its embeddings name one.

    It is the ``pad_token_id`` of a transformers config, or the ``padding_idx`` that all embeddings of the
    model that have one agree on.
    """
    try:
        config = getattr(model, "config", None)
    except Exception:  # of a property of the model's
        config = None
    # A model of images and text has the settings of its text in a config within.
    for source in (config, getattr(config, "text_config", None)):
        token = getattr(source, "pad_token_id", None)
        # Some configs write -1 for none.
        if isinstance(token, int) and token >= 0:
            return PadToken(token, token in _marks(source))
    tables = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    own = {token for token in tables if token is not None}
    return PadToken(own.pop(), False) if len(own) == 1 else None


def _marks(config: Any) -> set[Any]:
    """The ids that begin or end a text."""
    marks: set[Any] = set()
    for name in _MARKS:
        ids = getattr(config, name, None)
        marks |= set(ids) if isinstance(ids, list | tuple) else {ids}
    return marks


def count_padding(ids: Tensor, pad: PadToken, real: NDArray[np.bool_] | None = None) -> Tensor:
    """How many tokens are padding: the runs of the padding token at either end of each text.

    Where the padding token also begins or ends a text, the first of each run is taken for that.

    Args:
        ids: token ids, shape (texts, positions).
        pad: the padding token.
        real: a mask, shape (texts, positions), True = real; what it leaves out does not count. Ignored
            if it is of another shape.

    Returns:
        A whole number, as a tensor of shape () on the device of ``ids``: nothing waits for the device.
    """
    is_pad = (ids == pad.token).to(torch.int64)
    if real is not None and real.shape == ids.shape:
        is_pad = is_pad * torch.from_numpy(real).to(ids.device)
    leading, trailing = is_pad.cumprod(1).sum(1), is_pad.flip(1).cumprod(1).sum(1)
    trailing = trailing.where(leading < ids.shape[1], 0)  # a text of nothing else is one run
    marks = int(pad.mark)
    return ((leading - marks).clamp(min=0) + (trailing - marks).clamp(min=0)).sum()
