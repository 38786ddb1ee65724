"""What quantizers' own collectors gather, by plain hooks, and small models to gather it from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = dict[str, Tensor]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).to(dtype).eval()


def mixtral() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SIZES, num_local_experts=4)
    return transformers.MixtralForCausalLM(config).eval()


class Experts(nn.Module):
    """Four experts of Linear layers, two to a token; the last is never chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 4)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"up_proj": nn.Linear(32, 48), "down_proj": nn.Linear(48, 32)}) for _ in range(4)
        )
        with torch.no_grad():
            self.gate.bias[3] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 32)
        chosen = self.gate(rows).topk(2).indices
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            at = (chosen == number).any(-1)
            if at.any():
                out[at] += expert["down_proj"](expert["up_proj"](rows[at]).relu())
        return out.view_as(x)


class Qwen2MoeForCausalLM(nn.Module):
    """A model of that name whose experts are modules, as in transformers before 5."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"embed": nn.Embedding(64, 32)})
        self.model["layers"] = nn.ModuleList(nn.ModuleDict({"mlp": Experts()}) for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.model["embed"](input_ids)
        for layer in self.model["layers"]:
            hidden = hidden + layer["mlp"](hidden)
        return hidden


def batches(*, padded: bool = False) -> list[Batch]:
    """Three batches of token ids and masks; with padding on the right of the first two examples of each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (3, 4, 9), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[:, 0, 5:] = mask[:, 1, 7:] = 0
        ids = ids * mask
    return [{"input_ids": of_batch, "attention_mask": real} for of_batch, real in zip(ids, mask, strict=True)]


def collected(
    model: nn.Module,
    data: Sequence[Batch],
    add: Callable[[str, Tensor, Tensor, Any], Any],
    *,
    types: tuple[type[nn.Module], ...] = (nn.Linear,),
    real_rows: bool = False,
) -> dict[str, Any]:
    """What a forward hook on each module of these types gathers.

    Args:
        model: the model.
        data: its batches.
        add: from the layer's name, its input and output of shape (rows, features), and what it has gathered
            so far or None, what it has gathered then.
        types: of modules.
        real_rows: whether rows of padding are taken out first, which no collector does.
    """
    found: dict[str, Any] = {}
    real = torch.ones(0, dtype=torch.bool)

    def hook(name: str, args: tuple[Tensor, ...], output: Tensor) -> None:
        rows, out = args[0].reshape(-1, args[0].shape[-1]), output.reshape(-1, output.shape[-1])
        keep = real if real_rows else slice(None)
        found[name] = add(name, rows[keep], out[keep], found.get(name))

    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: hook(name, args, output))
        for name, module in model.named_modules()
        if isinstance(module, types)
    ]
    with torch.no_grad():
        for batch in data:
            real = batch["attention_mask"].flatten().bool()
            model(**batch)
    for handle in handles:
        handle.remove()
    return found


def largest(name: str, rows: Tensor, out: Tensor, before: Tensor | None) -> Tensor:
    """SmoothQuant's: the running maximum of |x|, in the activations' type, then float32."""
    of_batch = rows.abs().amax(0).float()
    return of_batch if before is None else torch.maximum(before, of_batch)


def range_of_output(name: str, rows: Tensor, out: Tensor, before: Any) -> Any:
    """llm-compressor's SmoothQuant: smallest and largest output."""
    low, high = out.amin(0), out.amax(0)
    return (low, high) if before is None else (torch.minimum(before[0], low), torch.maximum(before[1], high))


def sums(name: str, rows: Tensor, out: Tensor, before: Any) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Sums of x² and |x| in float64, and the number of rows: llama-imatrix, AWQ."""
    wide = rows.double().numpy()
    squares, absolute, count = before or (0.0, 0.0, 0)
    return squares + (wide**2).sum(0), absolute + np.abs(wide).sum(0), count + len(wide)
