"""Run many variants of one float graph on one input, each only from where it departs.

A variant's node is clean where it is the float graph's node of that name and all it reads is clean:
its value is the float graph's, taken as it is. What depends on stored constants alone (a weight
that is dequantised, say) is computed once for each variant. All else is run for each input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from compiler.evaluate import run_node
from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Kind, Node, Value

K = TypeVar("K")


@dataclass(frozen=True)
class Evaluation:
    """A graph ready to be run many times: values known beforehand, and the nodes left to run."""

    graph: Graph
    known: Mapping[Value, Any]
    rest: tuple[Node, ...]


@torch.no_grad()
def base_evaluation(graph: Graph) -> Evaluation:
    """Return the float graph with its constants known."""
    return Evaluation(graph, _stored(graph), tuple(graph.ops()))


@torch.no_grad()
def variant_evaluation(base: Graph, graph: Graph) -> Evaluation:
    """Return a variant of `base` with what constants alone decide computed, and its clean nodes left out."""
    known = _stored(graph)
    leaves = [n for n in graph.nodes() if n.kind in (Kind.INPUT, Kind.CONSTANT, Kind.STATE)]
    clean = {n.name for n in leaves if _same(base, graph, n)}
    rest = []
    for node in graph.ops():
        reads = [v for _, v in node.values()]
        if _same(base, graph, node) and all(v.node in clean for v in reads):
            clean.add(node.name)
        elif reads and all(v in known for v in reads):
            run_node(node, known, {})
        else:
            rest.append(node)
    return Evaluation(graph, known, tuple(rest))


@torch.no_grad()
def evaluate_variants(
    base: Evaluation, variants: Mapping[K, Evaluation], inputs: Sequence[torch.Tensor]
) -> tuple[list[Any], dict[K, list[Any]]]:
    """Return the float graph's flat results and each variant's, for flat inputs."""
    nodes = base.graph.inputs()
    bindings = bind([n.type for n in nodes], [t.shape for t in inputs])
    values = {**base.known, **{n.value: t for n, t in zip(nodes, inputs, strict=True)}}
    for node in base.rest:
        run_node(node, values, bindings)
    found = {}
    for key, variant in variants.items():
        own = {**values, **variant.known}
        for node in variant.rest:
            run_node(node, own, bindings)
        found[key] = _results(variant.graph, own, bindings)
    return _results(base.graph, values, bindings), found


def _results(graph: Graph, values: Mapping[Value, Any], bindings: Mapping[str, Any]) -> list[Any]:
    return [resolve_operand(operand, values, bindings) for _, operand in graph.output.operands]


def _stored(graph: Graph) -> dict[Value, Any]:
    stored: dict[Value, Any] = {}
    for name, constant in graph.constants.items():
        assert constant.tensor is not None, f"constant {name!r} has no data"
        stored[Value(name)] = constant.tensor
    return stored


def _same(base: Graph, graph: Graph, node: Node) -> bool:
    """Tell whether a node is the base's own, a stored tensor by its content too."""
    if node.name not in base or base.node(node.name) != node:
        return False
    return base.constants.get(node.name) == graph.constants.get(node.name)
