"""What an encoder-decoder's decoder is given: its start token, then the text but for its last token.

That is what such models are trained on (teacher forcing), with the input in the place of the answer, and
every decoder layer sees as many tokens as the encoder's do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normprobe.errors import ModelError
from normprobe.loading.inputs.modality import forward_arguments
from normprobe.loading.models import LoadedModel


def needs_decoder_tokens(model: LoadedModel) -> bool:
    """Whether the model's forward wants ``decoder_input_ids``."""
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    return encoder_decoder and "decoder_input_ids" in forward_arguments(model.module)


def decoder_tokens(ids: list[int], model: LoadedModel) -> list[int]:
    """The decoder's tokens for a text of tokens ``ids``.

    Raises:
        ModelError: the config names no token to start with.
    """
    return [start_token(model), *ids[:-1]]


def start_tokens(model: LoadedModel, examples: int) -> dict[str, Tensor]:
    """One start token an example for a decoder that reads images or sound; else nothing.

    Raises:
        ModelError: the config names no token to start with.
    """
    if not needs_decoder_tokens(model):
        return {}
    tokens = torch.full((examples, 1), start_token(model), device=model.device)
    return {"decoder_input_ids": tokens}


def start_token(model: LoadedModel) -> int:
    """The token that the model's decoder begins with.

    Raises:
        ModelError: neither the config nor the generation config names one.
    """
    # The generation config first, as `generate` goes by it.
    configs: list[Any] = [getattr(model.module, "generation_config", None), model.config]
    configs.append(getattr(model.config, "decoder", None))
    # Where no start is named texts begin with bos, and decoders that have none with the padding token.
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        for config in configs:
            value = getattr(config, name, None)
            if isinstance(value, int) and value >= 0:
                return value
    raise ModelError(f"{model.name} names no decoder_start_token_id; give decoder_input_ids in an .npz file")
