"""The layers that models of text, sound and images are made of, on every target, against float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from targets import get_target, list_targets
from tests.targets.functions import Together

SEED = 5


class Recurrent(nn.Module):
    """A recurrent layer over time, batch first, its last output and state."""

    def __init__(self, kind, **options):
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, **options)

    def forward(self, x):
        y, state = self.layer(x)
        return y, state[0] if isinstance(state, tuple) else state


class Rotary(nn.Module):
    """Attention with rotary embeddings, causal, grouped keys and values, RMSNorm before."""

    def __init__(self, width=32, heads=4, groups=2, length=6):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm = nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * groups * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        turns = torch.outer(torch.arange(length), 10000 ** (-torch.arange(0, self.size, 2) / self.size))
        self.register_buffer("cos", torch.cat([turns.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([turns.sin()] * 2, -1))
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def turned(self, x):
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def forward(self, x):
        b, n, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(b, n, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(y).view(b, n, 2 * self.groups, self.size).transpose(1, 2).chunk(2, 1)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        mixed = f.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).reshape(b, n, -1))


class Masked(nn.Module):
    """Attention with an additive mask that is a constant."""

    def __init__(self, length=5):
        super().__init__()
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def forward(self, x):
        return f.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)


class Mixture(nn.Module):
    """Experts mixed by a gate: all are computed, the routing is static."""

    def __init__(self, experts=3):
        super().__init__()
        self.gate = nn.Linear(8, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)) for _ in range(experts)
        )

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class Grouped(nn.Module):
    """Grouped, dilated and transposed convolutions in one and two dimensions."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.line = nn.Conv1d(8, 4, 5, stride=2)

    def forward(self, x):
        return self.line(self.up(self.grouped(x)).flatten(2))


class Text(nn.Module):
    """Embeddings of tokens and places, summed."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 8), nn.Embedding(16, 8)

    def forward(self, tokens):
        return self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))


LAYERS = {
    # Three steps: a recurrent layer is unrolled, and each operation takes its time to lower.
    "lstm both ways": (lambda: Recurrent(nn.LSTM, bidirectional=True), (2, 3, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 3, 6)),
    "rotary": (Rotary, (2, 6, 32)),
    "masked attention": (Masked, (2, 2, 5, 8)),
    "mixture of experts": (Mixture, (2, 5, 8)),
    "grouped and transposed": (Grouped, (1, 8, 6, 6)),
    "text": (Text, None),
}


@pytest.mark.parametrize("name", list_targets())
def test_the_runtime_computes_what_the_layers_do(name, lower, imports):
    torch.manual_seed(SEED)
    inputs = [torch.randn(s) if s else torch.tensor([[3, 19, 0, 7]]) for _, s in LAYERS.values()]
    graph = imports(Together([make() for make, _ in LAYERS.values()]), *inputs)
    assert lower(get_target(name), graph).error(*inputs) < 1e-5
