"""Parallel experts under a partition of rows, in the forms their authors write it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from compiler.frontends.stochastic import import_stochastic
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.passes import PIPELINE

WIDTH = 6


class Mlp(nn.Module):
    """The expert of a transformer: two linear layers and a GELU."""

    def __init__(self, width: int = WIDTH, hidden: int = 10) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class Partitioned(nn.Module):
    """Experts on the parts of a random order of the rows; `route` writes the partition and its undoing."""

    def __init__(self, route: Callable, *experts: nn.Module) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.route = route

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.route(self.experts, x)


def spread(count: int, size: float, build: Callable[[], nn.Module] = Mlp, seed: int = 0) -> list[nn.Module]:
    """Return experts around one base: theta_e = theta + size * rms(theta) * noise_e."""
    torch.manual_seed(seed)
    base = build()
    experts = [copy.deepcopy(base) for _ in range(count)]
    with torch.no_grad():
        for expert in experts:
            for p in expert.parameters():
                p += size * p.square().mean().sqrt() * torch.randn_like(p)
    return experts


def average_of(experts: list[nn.Module]) -> nn.Module:
    """Return one module with the mean of the experts' parameters, in float64: the reference."""
    mean = copy.deepcopy(experts[0]).double()
    with torch.no_grad():
        for p, *own in zip(mean.parameters(), *(e.parameters() for e in experts), strict=True):
            p.copy_(torch.stack([q.double() for q in own]).mean(0))
    return mean


def imported(module: nn.Module, *inputs: torch.Tensor) -> Graph:
    """Import a module with its draws and run the passes."""
    graph = import_stochastic(module.eval(), inputs, {})
    for _, run in PIPELINE:
        graph = run(graph)
        verify(graph)
    return graph


def _pass_through(experts, parts):
    return torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True)])


def by_index(experts, x):
    order = torch.randperm(len(x))
    return _pass_through(experts, x[order].chunk(len(experts)))[torch.argsort(order)]


def by_noise(experts, x):
    order = torch.argsort(torch.rand(len(x)))
    return _pass_through(experts, x[order].chunk(len(experts)))[order.sort()[1]]


def by_slices(experts, x):
    order = torch.randperm(len(x))
    rows, size = torch.index_select(x, 0, order), -(-len(x) // len(experts))
    parts = [rows[i * size : (i + 1) * size] for i in range(len(experts))]
    return _pass_through(experts, parts).index_select(0, order.argsort())


def by_parts_of_the_order(experts, x):
    out = torch.empty_like(x)
    for expert, own in zip(experts, torch.randperm(len(x)).chunk(len(experts)), strict=True):
        out[own] = expert(x[own])
    return out


def by_one_write(experts, x):
    out, order = torch.zeros_like(x), torch.randperm(len(x))
    out[order] = _pass_through(experts, x[order].chunk(len(experts)))
    return out


def by_inverse_table(experts, x):
    order = torch.randperm(len(x))
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(x))
    return _pass_through(experts, x[order].tensor_split(len(experts)))[inverse]


def by_second_dimension(experts, x):
    x = x.reshape(1, -1, x.shape[-1])
    order = torch.randperm(x.shape[1])
    parts = x[:, order].chunk(len(experts), 1)
    made = torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True)], 1)
    return made[:, order.argsort()].reshape(x.shape[1:])


FORMS = (
    by_index,
    by_noise,
    by_slices,
    by_parts_of_the_order,
    by_one_write,
    by_inverse_table,
    by_second_dimension,
)
