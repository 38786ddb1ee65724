"""Models of graphs, molecules and operators: norms over nodes, graphs and representations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.survey.libraries.entry import Entry, bare_package, entry, numbers

NODES = numbers(40, 16)
EDGES = torch.randint(0, 40, (2, 160), generator=torch.Generator().manual_seed(0))
GRAPH = torch.arange(40) // 10


def torch_geometric() -> Iterator[Entry]:
    """Graph networks with each norm that the library has."""
    import torch_geometric.nn as g

    for name in ("BatchNorm", "GraphNorm", "InstanceNorm", "LayerNorm", "PairNorm", "DiffGroupNorm"):
        options: dict[str, Any] = {"groups": 4} if name == "DiffGroupNorm" else {}
        make = lambda name=name, options=options: g.GraphSAGE(16, 32, 2, 8, norm=name, norm_kwargs=options)
        yield entry(f"GraphSAGE.{name}", make, NODES, EDGES)
    for name in ("GraphNorm", "LayerNorm", "InstanceNorm"):
        yield entry(
            f"GIN.{name}.batch", lambda name=name: g.GIN(16, 32, 2, 8, norm=name), NODES, EDGES, batch=GRAPH
        )
    yield entry(
        "LayerNorm.node",
        lambda: g.GCN(16, 32, 2, 8, norm="LayerNorm", norm_kwargs={"mode": "node"}),
        NODES,
        EDGES,
    )
    yield entry("GAT", lambda: g.GAT(16, 32, 2, 8, v2=True), NODES, EDGES)
    yield entry(
        "PNA",
        lambda: g.PNA(
            16, 32, 2, 8, aggregators=["mean", "max"], scalers=["identity"], deg=torch.tensor([0, 5, 5])
        ),
        NODES,
        EDGES,
    )
    yield entry("MLP.layer", lambda: g.MLP([16, 32, 8], norm="layer_norm"), NODES)
    yield entry("MLP.batch.train", lambda: g.MLP([16, 32, 8]), NODES, train=True)
    yield entry(
        "GPSConv", lambda: _Layered(g.GPSConv(16, g.GINConv(nn.Linear(16, 16)), heads=2)), NODES, EDGES
    )
    yield entry("TransformerConv", lambda: _Layered(g.TransformerConv(16, 8, heads=2)), NODES, EDGES)
    yield entry("Hetero", lambda: _Layered(g.HeteroLinear(16, 8, 3)), NODES, torch.arange(40) % 3)
    yield entry("HeteroLayerNorm", lambda: _Layered(g.HeteroLayerNorm(16, 3)), NODES, torch.arange(40) % 3)
    yield entry("HeteroBatchNorm", lambda: _Layered(g.HeteroBatchNorm(16, 3)), NODES, torch.arange(40) % 3)
    yield entry("MessageNorm", lambda: _Layered(g.MessageNorm(True)), NODES, numbers(40, 16, seed=1))
    yield entry(
        "AttentiveFP", lambda: g.AttentiveFP(16, 32, 8, 4, 2, 1), NODES, EDGES, numbers(160, 4), GRAPH
    )


class _Layered(nn.Module):
    """A module inside a model, so that its name is not empty."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        return self.inner(*inputs)


def e3nn() -> Iterator[Entry]:
    """Equivariant layers, whose weights are one vector."""
    import e3nn.nn
    import e3nn.o3

    some = "4x0e + 4x1o"
    x = numbers(20, 16)
    net = lambda: nn.Sequential(e3nn.o3.Linear(some, some), e3nn.nn.BatchNorm(some))
    yield entry("BatchNorm", net, x)
    yield entry("BatchNorm.train", net, x, train=True)
    yield entry("FullyConnectedNet", lambda: e3nn.nn.FullyConnectedNet([16, 32, 8], torch.relu), x)
    yield entry("Gate", lambda: nn.Sequential(e3nn.nn.NormActivation(some, torch.sigmoid)), x)


def neuraloperator() -> Iterator[Entry]:
    """Neural operators, with group, instance and adaptive norms."""
    from neuralop.models import FNO, TFNO, UNO

    x = numbers(2, 3, 16, 16)
    sizes: dict[str, Any] = dict(
        n_modes=(4, 4), in_channels=3, out_channels=2, hidden_channels=16, n_layers=2
    )
    for norm in (None, "group_norm", "instance_norm", "batch_norm"):
        yield entry(f"FNO.{norm}", lambda norm=norm: FNO(norm=norm, **sizes), x)
    yield entry("TFNO", lambda: TFNO(**sizes), x)
    yield entry(
        "UNO",
        lambda: UNO(
            3,
            2,
            16,
            n_layers=3,
            uno_out_channels=[16, 16, 16],
            uno_n_modes=[[4, 4]] * 3,
            uno_scalings=[[1, 1]] * 3,
            norm="group_norm",
            channel_mlp_skip="linear",
        ),
        x,
    )


def schnetpack() -> Iterator[Entry]:
    """Dense layers and networks of atoms."""
    bare_package("schnetpack")
    from schnetpack.nn.base import Dense
    from schnetpack.nn.blocks import build_mlp

    yield entry("Dense", lambda: nn.Sequential(Dense(16, 16, activation=torch.tanh), Dense(16, 4)), NODES)
    yield entry("mlp", lambda: build_mlp(16, 4, n_layers=3), NODES)


def egnn() -> Iterator[Entry]:
    """Equivariant graph networks with norms of coordinates."""
    from egnn_pytorch import EGNN, EGNN_Network

    feats, coors = numbers(2, 8, 32), numbers(2, 8, 3)
    yield entry("EGNN", lambda: _Layered(EGNN(dim=32, norm_feats=True, norm_coors=True)), feats, coors)
    yield entry(
        "Network", lambda: EGNN_Network(num_tokens=16, dim=32, depth=2), torch.arange(16).reshape(2, 8), coors
    )


LIBRARIES = {
    "torch-geometric": torch_geometric,
    "e3nn": e3nn,
    "neuraloperator": neuraloperator,
    "schnetpack": schnetpack,
    "egnn-pytorch": egnn,
}
