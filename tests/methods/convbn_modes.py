"""ConvBN modes: Train has no merge, Eval folds, Tune is a subgraph on weights, Deploy is what both become.

Tune computes `c = γ/√(σ²+ε)`, `W' = W c`, `b' = β + c (b - μ)` at each step from live parameters and
fixed statistics; in an exported graph that is weight-only. In a transposed convolution the output
channels are the second axis of the weight, in groups.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.methods.judge import scramble
from tests.methods.method import Built, Merge, Method, Refusal

METHOD = Method("2.13", "ConvBN modes", "arXiv 2305.11624", "M1+M2")

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Conv = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed


class ConvNorm(nn.Module):
    """An affine layer and its BatchNorm in one of the modes: train, batch, eval, tune; then a ReLU."""

    def __init__(self, conv: Conv, norm: nn.Module, mode: str) -> None:
        super().__init__()
        self.conv, self.norm, self.mode = conv, norm, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm
        if self.mode == "tune":
            return F.relu(self.tuned(x))
        y = self.conv(x)
        if self.mode == "train":
            return F.relu(F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, True))
        if self.mode == "batch":
            return F.relu(F.batch_norm(y, None, None, n.weight, n.bias, True))
        return F.relu(n(y))

    def tuned(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer with the weights that Tune computes."""
        n, conv, weight = self.norm, self.conv, self.conv.weight
        c = n.weight / torch.sqrt(n.running_var + n.eps)
        bias = n.bias - c * n.running_mean if conv.bias is None else n.bias + c * (conv.bias - n.running_mean)
        if isinstance(conv, nn.Linear):
            return F.linear(x, weight * c.view(-1, 1), bias)
        if isinstance(conv, Transposed):
            g, trailing = conv.groups, (1,) * (weight.dim() - 2)
            weight = (weight.view(g, -1, *weight.shape[1:]) * c.view(g, 1, -1, *trailing)).view_as(weight)
            convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
            return convolve(x, weight, bias, conv.stride, conv.padding, conv.output_padding, g)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        weight = weight * c.view(-1, *(1,) * (weight.dim() - 1))
        return convolve(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class Regrouped(nn.Module):
    """A BatchNorm over a reshape of the convolution's 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(self.norm(y.reshape(len(y), self.norm.num_features, -1, y.shape[3])))


class TwoReaders(nn.Module):
    """A convolution whose result is read before and after its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return F.relu(self.norm(y)), y.sigmoid()


def block(module: nn.Module, *size: int) -> Built:
    """Return a module and an input with odd sizes."""
    generator = torch.Generator().manual_seed(15)
    return scramble(module), (torch.randn(size or (2, 8, 11, 13), generator=generator),)


LAYERS = {  # name: (layer, norm, size of the input)
    "linear": (lambda: nn.Linear(8, 12), nn.BatchNorm1d, (3, 8)),
    "conv1d": (lambda: nn.Conv1d(8, 12, 3, 2, 1, groups=4, bias=False), nn.BatchNorm1d, (2, 8, 13)),
    "conv2d": (lambda: nn.Conv2d(8, 12, 3, 2, 2, 2), nn.BatchNorm2d, (2, 8, 11, 13)),
    "conv3d": (lambda: nn.Conv3d(8, 12, 3, 1, 1, bias=False), nn.BatchNorm3d, (1, 8, 5, 7, 3)),
    "conv_transpose1d": (
        lambda: nn.ConvTranspose1d(8, 12, 4, 3, 1, 2, groups=4, bias=False),
        nn.BatchNorm1d,
        (2, 8, 7),
    ),
    "conv_transpose3d": (
        lambda: nn.ConvTranspose3d(8, 12, 3, 2, 1, groups=2),
        nn.BatchNorm3d,
        (1, 8, 3, 5, 4),
    ),
    "conv_transpose2d": (
        lambda: nn.ConvTranspose2d(8, 12, 3, 2, 1, 1, groups=2),
        nn.BatchNorm2d,
        (2, 8, 5, 7),
    ),
}


def mode(name: str, layer: str) -> Built:
    """Return a layer and its BatchNorm in a mode."""
    conv, norm, size = LAYERS[layer]
    return block(ConvNorm(conv(), norm(12), name), *size)


MERGES = (
    *(
        Merge(
            f"{m} {layer}",
            lambda m=m, layer=layer: mode(m, layer),
            {layer: 1, "relu": 1},
            folds=m == "tune",
        )
        for m in ("eval", "tune")
        for layer in LAYERS
    ),
    Merge("a feature for each pair of channels", lambda: block(Regrouped(4)), {"conv2d": 1, "relu": 1}),
)
REFUSALS = (
    Refusal("train", lambda: mode("train", "conv2d"), {}, "training mode"),
    Refusal(
        "no running statistics",
        lambda: mode("batch", "conv2d"),
        {"rsqrt": 1},
        "rsqrt is not affine in its input",
    ),
    # What stays of the BatchNorm is a depthwise 1×1.
    Refusal(
        "read before the norm",
        lambda: block(TwoReaders()),
        {"conv2d": 2, "relu": 1, "sigmoid": 1},
        "which cannot absorb it",
        "sigmoid",
    ),
    Refusal(
        "two features for each channel",
        lambda: block(Regrouped(16), 2, 8, 10, 13),
        {"conv2d": 2, "relu": 1},
        reason="relu is not affine",
        node="relu",
    ),
)
