"""What is so by construction gets no warning: shorter running variances, zeros of an inner activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import normprobe


class QuaternionNorm(nn.BatchNorm1d):
    """A BatchNorm with a mean for each of four components, and a variance for each quaternion."""

    def __init__(self, quaternions: int) -> None:
        super().__init__(4 * quaternions)
        self.running_var: Tensor
        self.register_buffer("running_var", torch.ones(quaternions))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.running_var.repeat(4) + self.eps).rsqrt()
        return (x - self.running_mean) * scale * self.weight + self.bias


class NormAct(nn.BatchNorm1d):
    """A BatchNorm whose module ends in a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def data() -> Tensor:
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def test_a_running_variance_of_another_width_is_not_called_invalid() -> None:
    model = nn.Sequential(nn.Linear(16, 16), QuaternionNorm(4), nn.Linear(16, 2)).eval()
    recording = normprobe.record(model, [data()])
    assert recording.ledger.set_index("layer").loc["1", "kind"] == "batch_norm"
    assert recording.features.query("layer == '1' and site == 'input'")["running_var"].isna().all()
    assert recording.findings(["running_variance_invalid"]).empty


def test_one_that_is_nan_throughout_still_is() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)).eval()
    model[1].running_var.fill_(torch.nan)
    found = normprobe.record(model, [data()]).findings()
    assert {"running_variance_invalid", "nonfinite"} <= set(found["check"])
    assert found.set_index("check").loc["nonfinite", "follows_from"] == "running_variance_invalid"


def with_activation(*, share: float, weight: float) -> normprobe.Recording:
    """Of a share of the channels the bias is so low that the ReLU inside the norm leaves nothing of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), NormAct(16), nn.Linear(16, 2))
    model.train()
    with torch.no_grad():
        model(data())
        model[1].bias[: int(16 * share)] = -50
        model[1].weight[: int(16 * share)] = weight
    return normprobe.record(model.eval(), [data()])


def test_zeros_of_an_activation_inside_a_norm_are_no_constant_features() -> None:
    recording = with_activation(share=0.375, weight=0.9)
    zero = recording.features.query("layer == '1' and site == 'output'")["zero_fraction"]
    assert (zero == 1).sum() == 6
    assert recording.findings(["constant_features"]).empty
    # A weight of 0 is the norm's own doing.
    assert len(with_activation(share=0.375, weight=0).findings(["constant_features"])) == 1


class MessageLayer(nn.Module):
    """A layer of a graph network: messages and update are branches whose weights start next to 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * width, 32), nn.SiLU(), nn.Linear(32, 8), nn.SiLU())
        self.node = nn.Sequential(nn.Linear(width + 8, 32), nn.SiLU(), nn.Linear(32, width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.cat([x[:, None].expand(-1, len(x), -1), x[None].expand(len(x), -1, -1)], -1)
        update: Tensor = self.node(torch.cat([x, self.edge(pairs).sum(1)], -1))
        return x + update


class MessageNet(nn.Module):
    """Several such layers, by default with nothing behind the last."""

    def __init__(self, layers: int, head: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(MessageLayer(16) for _ in range(layers))
        self.head = nn.Linear(16, 2) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        shown: Tensor = self.head(x)
        return shown


def test_branches_of_small_weights_beside_a_stream_are_no_collapse() -> None:
    for model in (MessageNet(1), MessageNet(3), MessageNet(3, head=True)):
        recording = normprobe.record(model.eval(), [data()[:24]])
        # Most sites are nearly the same for all samples, by construction.
        layers = recording.layers
        spread = layers["within_feature_variance"] / (layers["variance"] + layers["mean"] ** 2)
        assert (spread < 1e-4).mean() > 0.5
        assert recording.findings(["collapsed_samples"]).empty


def test_a_branch_that_weights_of_0_make_the_same_still_is_one() -> None:
    model = MessageNet(1)
    nn.init.zeros_(model.layers[0].node[0].weight)
    found = normprobe.record(model.eval(), [data()[:24]]).findings(["collapsed_samples"])
    assert found["layer"].tolist() == ["layers.0.node.0"]
