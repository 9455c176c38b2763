"""Weights generated from one row of a table: the table of generated weights in their place.

    f(T[i]) = (f(T[0]), f(T[1]), ...)[i]

A task or adapter that is an input picks a row, and a hyper-network makes weights of it at every call. The
rows are finite: what is computed from one row and constants alone is computed for all of them at build
time, in float64 and cast once (`merges.md` 2.22). Past `MOST_BYTES` the generator stays, and so does one
that only scales, shifts or masks a weight: the table would store that weight once for each row (2.20).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from compiler.evaluate import run_node, widen
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, TensorType, Value
from compiler.passes.dead_code import dead_code
from compiler.passes.placement import discretizes
from compiler.passes.weight_only import MOVEMENTS, cone, contents, repeatable, weight_only

MOST_BYTES = 1 << 24  # of the tables that take one generator's place
_LOOKUPS = {"aten.embedding.default": ("weight", "indices"), "aten.index_select.default": ("self", "index")}
_PICKS = MOVEMENTS | {"aten.unbind.int", "aten.select.int", "aten.slice.Tensor"}

_ELEMENTWISE = {"mul", "div", "add", "sub", "where", "masked_fill"}


def tabulate(graph: Graph) -> Graph:
    """Return the graph with tables of generated weights for generators that read one row of a table."""
    editor, known, changed = Editor(graph), weight_only(graph), False
    for node in graph.ops():
        table = _table(graph, node)
        if table is None:
            continue
        inside = _generated(graph, node, known)
        leaving = [v for n in inside for v in _leaving(graph, n, inside)]
        size = sum(graph.type_of(v).bytes() for v in leaving) * len(table)
        repeats = any(_repeats_weight(graph, n, known) for n in inside)
        uses = [path for v in leaving for _, path in graph.uses(v)]
        weights = all(path in ("weight", "bias") for path in uses)  # not a whole network of one token
        if not weights or all(n.op in _PICKS for n in inside) or repeats or size > MOST_BYTES:
            continue
        rows = _rows(graph, node, table, inside, leaving, known)
        for value in leaving:
            _replace(editor, node, value, rows[value])
        changed = True
    return dead_code(editor.finish()) if changed else graph


def _table(graph: Graph, node: Node) -> torch.Tensor | None:
    """Return the table of a lookup of one row by data, else None."""
    if node.op not in _LOOKUPS or not node.type.static:
        return None
    weight, index = (node.operand(k) for k in _LOOKUPS[node.op])
    one = all(d == 1 for d in graph.type_of(index).shape)
    first = node.op == "aten.embedding.default" or node.operand("dim") == 0
    return graph.constant(weight) if one and first and graph.constant(index) is None else None


def _generated(graph: Graph, lookup: Node, known: set[str]) -> list[Node]:
    """Return the operations on nothing but this row and constants, in order."""
    names = {lookup.name}
    for node in graph.nodes():
        reads = {v.node for v in contents(node)}
        own = node.kind is Kind.OP and reads & names and reads <= names | known
        if own and repeatable(node) and not discretizes(graph, node):
            names.add(node.name)
    return [n for n in graph.ops() if n.name in names and n is not lookup]


def _repeats_weight(graph: Graph, node: Node, known: set[str]) -> bool:
    """Tell whether an operation changes a weight element by element."""
    name = node.op.split(".")[1]
    weights = (graph.type_of(v).shape for _, v in node.values() if v.node in known)
    return name in _ELEMENTWISE and any(shape == node.type.shape for shape in weights)


def _leaving(graph: Graph, node: Node, inside: Iterable[Node]) -> list[Value]:
    names = {n.name for n in inside}
    values = (Value(node.name, i) for i in range(len(node.types)))
    return [v for v in values if any(reader.name not in names for reader, _ in graph.uses(v))]


@torch.no_grad()
def _rows(
    graph: Graph,
    lookup: Node,
    table: torch.Tensor,
    inside: list[Node],
    leaving: list[Value],
    known: set[str],
) -> dict[Value, torch.Tensor]:
    """Return each leaving value for all rows, [rows, ...], in its own type."""
    fixed: dict[Value, Any] = {}
    needed = cone(graph, {v.node for n in inside for v in contents(n) if v.node in known})
    for node in graph.nodes():
        if node.name in needed and node.kind is Kind.CONSTANT:
            tensor = graph.constants[node.name].tensor
            assert tensor is not None
            fixed[node.value] = widen(tensor, torch.float64)
        elif node.name in needed:
            run_node(node, fixed, {}, torch.float64)
    parts: dict[Value, list[torch.Tensor]] = {v: [] for v in leaving}
    shape = [d for d in lookup.type.shape if isinstance(d, int)]
    for row in table.double():
        values = {**fixed, lookup.value: row.reshape(shape)}
        for node in inside:
            run_node(node, values, {}, torch.float64)
        for value in leaving:
            parts[value].append(values[value].to(graph.type_of(value).dtype))
    return {value: torch.stack(found) for value, found in parts.items()}


def _replace(editor: Editor, lookup: Node, value: Value, rows: torch.Tensor) -> None:
    """Read a value from the table of all its rows."""
    type_, index = editor.graph.type_of(value), lookup.operand(_LOOKUPS[lookup.op][1])
    stored = editor.constant(rows, f"{value.node}_rows", lookup.origin, before=value.node)
    node = editor.graph.node(value.node)
    one = editor.graph.type_of(index)
    flat = editor.ahead_of(
        node, "aten.reshape.default", {"self": index, "shape": (1,)}, TensorType((1,), one.dtype)
    )
    picked = {"self": stored, "dim": 0, "index": flat}
    row = editor.ahead_of(
        node, "aten.index_select.default", picked, TensorType((1, *rows.shape[1:]), type_.dtype)
    )
    result = editor.ahead_of(node, "aten.reshape.default", {"self": row, "shape": type_.shape}, type_)
    editor.replace_uses(value, result)
