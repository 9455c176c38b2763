"""Graphs through the exact passes, and the judge of them, below the merge engine."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.graph import Graph, Kind
from compiler.ir.verify import verify
from compiler.passes import PIPELINE


def passed(graph: Graph) -> Graph:
    """Return a graph after every pass, verified after each."""
    for _, run in PIPELINE:
        graph = run(graph)
        verify(graph)
    return graph


def through_passes(module: nn.Module, *inputs: torch.Tensor) -> Graph:
    """Import a module and run the passes."""
    return passed(import_model(module.eval(), inputs))


def ops(graph: Graph) -> list[str]:
    """Return the short names of a graph's operations, in order."""
    return [n.op.split(".")[1] for n in graph.ops()]


def stored_bytes(graph: Graph) -> int:
    """Return the bytes of all constants."""
    return sum(n.type.bytes() for n in graph.nodes() if n.kind is Kind.CONSTANT)


def relative_error(graph: Graph, module: nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    """Return the largest difference from a module in float64, over its largest output."""
    with torch.no_grad():
        wanted: Any = copy.deepcopy(module).double()(*map(_double, inputs))
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    got = evaluate(graph, [_double(x) for x in inputs], torch.float64)
    assert [tuple(g.shape) for g in got] == [tuple(w.shape) for w in wanted]
    scale = max(float(w.abs().max()) for w in wanted)
    return max(float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True)) / scale


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
