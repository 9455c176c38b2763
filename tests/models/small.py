"""Tiny models with random statistics, and the judge that compares a graph with its module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.merge import Attempt, merge
from compiler.passes import PIPELINE


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm random statistics and affine parameters, and return the module in eval."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.track_running_stats:
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.3, 2.0, generator=generator)
            if part.affine:
                nn.init.normal_(part.weight, generator=generator)
                nn.init.normal_(part.bias, generator=generator)
    return module.eval()


class ConvNorm(nn.Sequential):
    """A convolution without bias and its BatchNorm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv2d(*args, bias=False, **kwargs), nn.BatchNorm2d(args[1]))


class Sum(nn.Module):
    """The sum of branches of one input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((b(x) for b in self.branches[1:]), self.branches[0](x))


class Function(nn.Module):
    """Layers and a function of them and the input."""

    def __init__(self, function: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.layers)


def compile_graph(module: nn.Module, *inputs: torch.Tensor) -> Graph:
    """Import a module and run the passes."""
    graph = import_model(module.eval(), inputs)
    for _, run in PIPELINE:
        graph = run(graph)
        verify(graph)
    return graph


def merged(module: nn.Module, *inputs: torch.Tensor) -> tuple[Graph, tuple[Attempt, ...]]:
    """Import, run the passes and merge, in float64, and check that nothing changed."""
    module = copy.deepcopy(module).double().eval()
    inputs = tuple(x.double() for x in inputs)
    graph, attempts = merge(compile_graph(module, *inputs))
    verify(graph)
    assert error(graph, module, inputs) < 1e-9
    return graph, attempts


def error(graph: Graph, module: nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    """Return the largest absolute difference of outputs over the largest output, in float64."""
    with torch.no_grad():
        wanted = copy.deepcopy(module).double()(*(x.double() for x in inputs))
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    got = evaluate(graph, [x.double() for x in inputs], torch.float64)
    assert [tuple(g.shape) for g in got] == [tuple(w.shape) for w in wanted]
    scale = max(float(w.abs().max()) for w in wanted)
    return max(float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True)) / max(scale, 1e-12)


def reasons(attempts: Sequence[Attempt], outcome: str) -> list[str]:
    """Return the reasons of all attempts of an outcome."""
    return [a.reason for a in attempts if a.outcome == outcome]
