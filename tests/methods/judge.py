"""Compile a train form in float64, and measure how far the result is from the module itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compiler.cost.counts import node_counts
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.graph import Graph, Kind, Node
from compiler.ir.verify import verify
from compiler.merge import Attempt, Exactness, Outcome, merge
from compiler.passes import PIPELINE
from compiler.passes.load_time import load_generators
from compiler.passes.placement import Place, Placement
from compiler.passes.ranking import keep_rankings
from compiler.passes.specialise import specialise
from tests.methods.method import Built


def compiled(
    build: Built,
    *,
    freeze: Mapping[str, torch.Tensor] | None = None,
    other: Mapping[str, torch.Tensor] | None = None,
    argmax_only: bool = False,
    dynamic_shapes: Any = None,
    load_time: bool = False,
    constants: int | None = None,
    macs: int | None = None,
    **settings: Any,
) -> tuple[Graph, tuple[Attempt, ...], float]:
    """Return the merged graph, the attempts, and the largest relative error in float64.

    `freeze` names inputs that are constants from now on, `other` those of the second call that cannot be
    drawn; with `argmax_only` the order of the last axis must be kept, and nothing else; `load_time` is for a
    runtime that computes weights when it loads a program. What a histogram cannot see is asserted here:
    `constants`, the stored constants left, and `macs`, the most multiply-accumulates that the convolutions and
    matrix products may cost. A module that the import refuses is one refused attempt, and an empty graph.
    """
    module, inputs = build
    module = copy.deepcopy(module).double().eval()
    inputs = tuple(_wide(x) for x in inputs)
    frozen = {name: _wide(x) for name, x in (freeze or {}).items()}
    try:
        graph = import_model(module, inputs, dynamic_shapes=dynamic_shapes)
    except UnsupportedModelError as error:
        return Graph(), (_refused(error),), 0.0
    names = [n.name for n in graph.inputs()]
    graph, source = _prepared(specialise(graph, frozen))
    graph, ranked = _ranked(graph) if argmax_only else (graph, ())
    graph, attempts = merge(graph, **settings)
    if load_time:
        graph, placed = load_generators(graph, source)
        attempts += tuple(_left(p) for p in placed if p.place is Place.LOAD)
    verify(graph)
    if constants is not None:
        stored = [n.name for n in graph.nodes() if n.kind is Kind.CONSTANT]
        assert len(stored) == constants, stored
    if macs is not None:
        assert multiply_accumulates(graph) <= macs
    first = dict(zip(names, inputs, strict=True)) | frozen
    calls = first, _other(first) | {name: _wide(x) for name, x in (other or {}).items()} | frozen
    same = [n for n in names if n not in frozen and torch.equal(calls[0][n], calls[1][n])]
    assert not same, f"state another value of {same}: a form must hold for every input"
    error = max(error_of(graph, module, given, argmax_only) for given in calls)
    return graph, (*ranked, *attempts), error


def _prepared(graph: Graph) -> tuple[Graph, Graph]:
    """Return the graph as the merge engine gets it, and as it was ahead of the folding of weights."""
    source = graph
    for name, run in PIPELINE:
        source = graph if name == "fold_weights" else source
        graph = run(graph)
        verify(graph)
    return graph, source


def _ranked(graph: Graph) -> tuple[Graph, tuple[Attempt, ...]]:
    """Return the graph with what a ranking does not need dropped, and each drop or refusal as an attempt."""
    graph, rankings = keep_rankings(graph)
    return graph, tuple(
        Attempt(
            r.origin, r.node, r.node, (r.node,), Outcome.MERGED if r.dropped else Outcome.REFUSED, r.reason, r.blame,
            exactness=Exactness.ARGMAX,
        )
        for r in rankings
    )  # fmt: skip


def error_of(graph: Graph, module: nn.Module, given: Mapping[str, torch.Tensor], argmax_only: bool) -> float:
    """Return how far the graph is from the module at inputs given by name.

    The largest absolute difference over the largest output; with `argmax_only`, 0 where the order along the last
    axis is the same and 1 where it is not.
    """
    with torch.no_grad():
        wanted = copy.deepcopy(module)(*given.values())
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    got = evaluate(graph, [given[n.name] for n in graph.inputs()], torch.float64)
    assert [tuple(g.shape) for g in got] == [tuple(w.shape) for w in wanted]
    pairs = list(zip(got, wanted, strict=True))
    if argmax_only:
        return float(not all(torch.equal(g.argsort(-1), w.argsort(-1)) for g, w in pairs))
    scale = max(float(w.abs().max()) for w in wanted)
    return max(float((g - w).abs().max()) for g, w in pairs) / max(scale, 1e-12)


def _left(placement: Placement) -> Attempt:
    """Return the attempt that a generator which is left to the runtime stands for."""
    node = placement.node
    return Attempt(placement.origin, node, node, (node,), Outcome.KEPT, placement.reason, node)


def _refused(error: UnsupportedModelError) -> Attempt:
    return Attempt("", "", "", (), Outcome.REFUSED, str(error), str(error))


def multiply_accumulates(graph: Graph) -> float:
    """Return what the convolutions and matrix products of a graph cost."""
    products = ("conv", "linear", "mm", "bmm", "matmul", "addmm", "baddbmm")
    return sum(
        _contraction(graph, n) if n.op == "aten.einsum.default" else node_counts(graph, n).macs
        for n in graph.ops()
        if n.op.split(".")[1].startswith((*products, "einsum"))
    )


def _contraction(graph: Graph, node: Node) -> float:
    """Return the product of the sizes of all indices of an einsum."""
    terms = node.operand("equation").split("->")[0].split(",")
    shapes = [graph.type_of(value).shape for value in node.operand("tensors")]
    sizes = {
        i: size
        for term, shape in zip(terms, shapes, strict=True)
        for i, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


def histogram(graph: Graph) -> dict[str, int]:
    """Return short op name -> count, without what only relabels memory (reshape, expand, ...)."""
    counts: dict[str, int] = {}
    for op, count in graph.histogram().items():
        name = op.split(".")[1]
        if name not in ("reshape", "expand", "unsqueeze", "squeeze"):
            counts[name] = counts.get(name, 0) + count
    return counts


def scramble(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and every BatchNorm statistic random values; return the module in eval.

    Weights keep their fan-in scale; one-dimensional parameters (biases, scales, LoRA gates, GRN and layer
    scale) are drawn from N(0, 1), so that nothing is the neutral element it was initialised to.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        for p in part.parameters(recurse=False):
            scale = 1.0 if p.dim() < 2 else (p[0].numel() or 1) ** -0.5
            if p.is_floating_point() or p.is_complex():
                with torch.no_grad():
                    p.copy_(
                        torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * scale
                    )
        if getattr(part, "running_var", None) is not None:
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.3, 2.0, generator=generator)
    return module.eval()


def sample(*shape: int, seed: int = 2) -> torch.Tensor:
    """Return normally distributed numbers, the same on every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


def _other(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return other inputs of the same shapes: numbers drawn anew, indices and masks moved on by one place."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(x.shape, generator=generator, dtype=x.dtype) * 3
        if x.is_floating_point()
        else x.flatten().roll(1).reshape(x.shape)
        for name, x in inputs.items()
    }
