"""Small models of every shape that the static route takes, and profiles that name a processor."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as f

from targets import get_target
from targets.tvm import processor
from tests.targets.conftest import PROFILE

TARGET = get_target("tvm")
HERE = processor.machine()


def stating(arch=HERE, **fields):
    return dataclasses.replace(PROFILE, arch=arch, **fields)


class TwoWays(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 32), nn.Linear(7, 32), nn.Linear(32, 5)

    def forward(self, x, y):
        hidden = f.gelu(self.a(x) * self.b(y).sigmoid())
        return self.c(hidden), hidden.reshape(2, 3, 32).softmax(-1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(6, 8, 2, batch_first=True)

    def forward(self, x):
        y, (h, c) = self.cells(x)
        return y, h, c


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).reshape(2, 9, 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = f.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(2, 9, 16))


class Bytes(nn.Module):
    """int8 weights and int8 values between kernels, as int8 programs have them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("row", torch.randint(-60, 60, (16,), dtype=torch.int8))

    def forward(self, x):
        small = (x * 20).round().clamp(-60, 60).to(torch.int8)
        moved = small.flip(1) + self.row
        wide = moved.to(torch.int32) * small.to(torch.int32)
        return moved, moved.float().mean(1), wide, (wide.float() / 40).round().to(torch.int8)


class Types(nn.Module):
    """Each type at the boundary; an output that is an input, one that is a weight, one returned twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))

    def forward(self, half, byte, tiny, number, index, flag):
        doubled = half * 2
        picked = self.table[index]
        return (
            *(doubled, byte + 1, tiny.abs(), number * number, index.flip(0), flag.logical_not()),
            *(picked, self.table, index, doubled.reshape(6), doubled),
        )


def convnet():
    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    )
    head = nn.Conv2d(8, 12, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    return nn.Sequential(*layers, *head)


def mobilenet():
    import timm

    return timm.create_model("mobilenetv2_035", pretrained=False, num_classes=10)


MODELS = {
    "convnet": (convnet, lambda: (torch.randn(2, 3, 16, 16),)),
    "mlp": (TwoWays, lambda: (torch.randn(6, 12), torch.randn(6, 7))),
    "lstm": (Recurrent, lambda: (torch.randn(2, 5, 6),)),
    "attention": (Attention, lambda: (torch.randn(2, 9, 16),)),
    "mobilenetv2_035": (mobilenet, lambda: (torch.randn(1, 3, 96, 96),)),
}
