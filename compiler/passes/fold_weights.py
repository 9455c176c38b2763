"""Weight-only folding: what no input or state reaches is computed at build time.

A cone is computed in float64 and rounded once to the type it stands for, complex numbers in their
double width as well. Where floats turn into integers or booleans (bucketing), the model's own
precision decides, so that no bucket moves. An `expand` is left in place: folding it would only store
copies. Every node of a cone is computed once, however many cones and readers share it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from compiler.evaluate import run_node, widen
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, TensorType, Value
from compiler.passes.placement import built, discretizes
from compiler.passes.weight_only import cone, contents


def fold_weights(graph: Graph) -> Graph:
    """Return the graph with weight-only cones replaced by their constants."""
    roots = built(graph)
    if not roots:
        return graph
    computed = results(graph, roots)
    editor = Editor(graph)
    for node in roots:
        for index in range(len(node.types)):
            old = Value(node.name, index)
            if editor.graph.uses(old):
                new = editor.constant(computed[old], f"{node.name}_folded", node.origin, before=node.name)
                editor.replace_uses(old, new)
        editor.remove_unread([node.name])
    return editor.finish()


def results(graph: Graph, roots: list[Node]) -> dict[Value, torch.Tensor]:
    """Return what weight-only operations compute, each output in its own type."""
    discrete = _after_discretization(graph, roots)
    found = _compute(graph, [n for n in roots if n.name not in discrete], torch.float64)
    return found | _compute(graph, [n for n in roots if n.name in discrete], None)


def _after_discretization(graph: Graph, roots: Iterable[Node]) -> set[str]:
    """Return the nodes under the roots at or after a float -> integer step."""
    names: set[str] = set()
    for node in _ordered(graph, roots):
        if discretizes(graph, node) or any(value.node in names for value in contents(node)):
            names.add(node.name)
    return names


def _ordered(graph: Graph, roots: Iterable[Node]) -> list[Node]:
    names = cone(graph, [n.name for n in roots])
    return [n for n in graph.nodes() if n.name in names]


@torch.no_grad()
def _compute(graph: Graph, roots: list[Node], dtype: torch.dtype | None) -> dict[Value, torch.Tensor]:
    """Return every output of the roots in its own type; what is read no more is freed on the way."""
    nodes = _ordered(graph, roots)
    remaining = Counter(value for node in nodes for value in contents(node))
    wanted = {n.name for n in roots}
    values: dict[Value, Any] = {}
    results: dict[Value, torch.Tensor] = {}
    for node in nodes:
        _run(graph, node, values, dtype)
        if node.name in wanted:
            for index, type_ in enumerate(node.types):
                results[Value(node.name, index)] = _rounded(values[Value(node.name, index)], type_)
        remaining.subtract(contents(node))
        for value in [*contents(node), *(Value(node.name, i) for i in range(len(node.types)))]:
            if not remaining[value]:
                values.pop(value, None)
    return results


def _run(graph: Graph, node: Node, values: dict[Value, Any], dtype: torch.dtype | None) -> None:
    if node.kind is Kind.CONSTANT:
        tensor = graph.constants[node.name].tensor
        assert tensor is not None, f"constant {node.name!r} has no data"
        values[node.value] = _widen(tensor, dtype)
        return
    stand_ins = {value for _, value in node.values()} - set(contents(node)) - set(values)
    for value in stand_ins:  # read for its type only
        type_ = graph.type_of(value)
        stand_in = torch.zeros((), dtype=type_.dtype).expand(
            [int(d) for d in type_.shape if isinstance(d, int)]
        )
        values[value] = _widen(stand_in, dtype)
    run_node(_wide_complex(node) if dtype is not None else node, values, {}, dtype)
    for value in stand_ins:
        del values[value]


def _widen(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is not None and tensor.dtype is torch.complex64:
        return tensor.to(torch.complex128)
    return widen(tensor, dtype)


def _wide_complex(node: Node) -> Node:
    """Return the node with complex128 for complex64 among its operands; `run_node` widens the floats."""
    operands = tuple((key, torch.complex128 if o is torch.complex64 else o) for key, o in node.operands)
    return dataclasses.replace(node, operands=operands)


def _rounded(tensor: torch.Tensor, type_: TensorType) -> torch.Tensor:
    """Return a copy in the type it stands for, dense and without a pending conjugation."""
    plain = tensor.resolve_conj().resolve_neg()
    return plain.to(type_.dtype, copy=True, memory_format=torch.contiguous_format)
