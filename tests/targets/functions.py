"""Small models for targets: functions of torch's operations in one line each, and a layer of tokens."""

from functools import cache
from inspect import signature

import torch
from torch import nn
from torch.nn import functional as f

from compiler.frontends.torch_export import import_model

X = (2, 6, 8, 8)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.linear, self.norm, self.slope = nn.Linear(8, 5), nn.BatchNorm2d(6), nn.PReLU(6)

    def forward(self, x):
        return self.function(self, x)


CASES = {
    "convolutions": lambda m, x: m.norm(m.up(m.conv(x)).repeat(1, 2, 1, 1)[:, :6]),
    "linear": lambda m, x: m.linear(x),
    "elementwise": lambda m, x: (x + x.abs()) * x.exp() - torch.maximum(x, -x) / x.square(),
    "numbers": lambda m, x: (1 - x * 2) / 3 + 1 / (x - 4) + 5 * (2.5 - x) - x.pow(3),
    "activations": lambda m, x: f.silu(x) + f.gelu(x) + f.hardswish(x) + f.hardsigmoid(x) + f.elu(x) + f.mish(x),
    "pools": lambda m, x: f.avg_pool2d(x, 3, 2, 1) + f.max_pool2d(x, 2) + f.adaptive_avg_pool2d(x, (4, 4)) + f.adaptive_max_pool2d(x, (4, 4)),
    "resizes": lambda m, x: f.interpolate(x, scale_factor=2, mode="bilinear") + f.interpolate(x, size=(16, 16)),
    "shapes": lambda m, x: torch.cat([x.permute(0, 1, 3, 2), f.pad(x, (1, 1))[..., 1:9]], 1).reshape(2, 96, 8).unbind(0),
    "rolls": lambda m, x: torch.roll(x, 3, 2) + x.flip(1) + f.pixel_shuffle(x.repeat(1, 2, 1, 1)[:, :4], 2).mean(),
    "norms": lambda m, x: f.group_norm(x, 3) + f.layer_norm(x, (8,)) + f.normalize(x, dim=1) + x.softmax(1),
    "attention": lambda m, x: f.scaled_dot_product_attention(x, x, x, is_causal=True),
    "composites": lambda m, x: m.norm(x).std(1) + torch.linalg.norm(x, dim=1) + torch.logit(x / 3)[:, 0],
    "a histogram": lambda m, x: torch.histc(x, 4, 0, 2),
    "a histogram without a range": lambda m, x: torch.histc(x, 4),
    "no translation": lambda m, x: x.median(1)[0],
    "a distance": lambda m, x: torch.cdist(x, x),
    "an inverse": lambda m, x: torch.linalg.inv(x),
    "singular values": lambda m, x: torch.linalg.svdvals(x),
    "a running product": lambda m, x: x.cumprod(1),
    "reductions": lambda m, x: x.var((2, 3)) + x.amax((2, 3)) + x.sum((2, 3)) + x.argmax(1).float().mean((1, 2))[:, None],
}  # fmt: skip


@cache
def imported(function, dtype=torch.float32):
    """The graph of a function of a module and an input."""
    return import_model(Function(function).to(dtype).eval(), ((torch.rand(X) + 0.5).to(dtype),))


class Together(nn.Module):
    """Several modules as one program: lowering a program of its own for each takes minutes."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.counts = [
            sum(p.default is p.empty for p in signature(m.forward).parameters.values()) for m in parts
        ]

    def forward(self, *inputs):
        results, rest = [], list(inputs)
        for part, count in zip(self.parts, self.counts, strict=True):
            found = part(*(rest.pop(0) for _ in range(count)))
            results.extend(found if isinstance(found, tuple) else [found])
        return results


class Tokens(nn.Module):
    """An embedding, a layer norm and two wide layers: the same weights at each token count."""

    def __init__(self, width=32):
        super().__init__()
        self.table, self.norm = nn.Embedding(50, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, tokens):
        return self.down(f.gelu(self.up(self.norm(self.table(tokens)))))


def tokens(count):
    """A sentence of so many tokens."""
    return torch.randint(0, 50, (1, count), generator=torch.Generator().manual_seed(count))
