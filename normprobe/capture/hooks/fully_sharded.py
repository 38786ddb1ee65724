"""Over which processes FSDP spreads the parameters of a module; read in torch 2.13 and 2.7."""

from __future__ import annotations

from typing import Any

from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH


def ranks_of_shards(module: Any) -> frozenset[int]:
    """The ranks of the mesh that `fully_shard` was given for this module; empty where it is not known.

    Nothing public says it: `FSDPModule._get_fsdp_state`, its groups of parameters and their `mesh_info`.
    """
    if not PRIVATE_TORCH:
        return frozenset()
    try:
        state = module._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        return frozenset(int(rank) for group in groups for rank in group.mesh_info.mesh.mesh.flatten())
    except Exception:  # of another version
        return frozenset()
