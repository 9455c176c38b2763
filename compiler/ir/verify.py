"""The law of the IR, checked between passes.

Names are `[a-z][a-z0-9_]*`; edges and operands agree; every operation is a registered, functional
overload whose operands carry its schema's names; every constant has its data and its type; there
is exactly one output and the graph is acyclic. A breach names the node inside a window of the
graph: it is the fault of the pass that ran last.
"""

from __future__ import annotations

import networkx as nx

from compiler.errors import GraphError
from compiler.ir.edit import NAME
from compiler.ir.graph import Graph, Kind, Node
from compiler.ir.schema import overload
from compiler.ir.text import window


def verify(graph: Graph) -> None:
    """Check the whole graph; raises GraphError with a window around the first breach."""
    if "output" not in graph or graph.output.kind is not Kind.OUTPUT:
        raise GraphError("the graph has no output node")
    if not nx.is_directed_acyclic_graph(graph.nx):
        cycle = nx.find_cycle(graph.nx)
        raise GraphError(f"the graph has a cycle: {' -> '.join(str(edge[0]) for edge in cycle[:6])}")
    for node in graph.nodes():
        reason = _breach(graph, node)
        if reason:
            raise GraphError(f"node {node.name!r}: {reason}\n{window(graph, node.name)}")


def _breach(graph: Graph, node: Node) -> str | None:
    if not NAME.match(node.name):
        return "its name must match [a-z][a-z0-9_]*"
    reads = {(path, v.node, v.index) for path, v in node.values()}
    edges = {(k, u, d["index"]) for u, _, k, d in graph.nx.in_edges(node.name, keys=True, data=True)}
    if reads != edges:
        return f"its edges and operands differ: {sorted(reads ^ edges)[:3]}"
    for _, value in node.values():
        if value.index >= len(graph.node(value.node).types):
            count = len(graph.node(value.node).types)
            return f"it reads output {value.index} of {value.node!r}, which has {count}"
    match node.kind:
        case Kind.OP:
            return _op_breach(node)
        case Kind.CONSTANT | Kind.STATE:
            return _constant_breach(graph, node)
        case Kind.WRITE:
            return _write_breach(graph, node)
        case _:
            return None


def _op_breach(node: Node) -> str | None:
    try:
        schema = overload(node.op)._schema
    except KeyError as error:
        return str(error)
    if schema.is_mutable:
        return f"{node.op} changes its input; the IR is functional"
    names = [a.name for a in schema.arguments]
    given = [key for key, _ in node.operands]
    unknown = [key for key in given if key not in names]
    missing = [a.name for a in schema.arguments if not a.has_default_value() and a.name not in given]
    if unknown or missing or len(set(given)) != len(given):
        return f"operands do not fit {node.op}{tuple(names)}: unknown {unknown}, missing {missing}"
    return None if node.types else "it has no output type"


def _constant_breach(graph: Graph, node: Node) -> str | None:
    stored = graph.constants.get(node.name)
    if stored is None:
        return "it has no stored tensor"
    if stored.tensor is not None and (tuple(stored.tensor.shape), stored.tensor.dtype) != (
        node.type.shape,
        node.type.dtype,
    ):
        return f"its tensor is {stored.tensor.dtype}{tuple(stored.tensor.shape)}, its type {node.type}"
    return None


def _write_breach(graph: Graph, node: Node) -> str | None:
    state = node.operand("state")
    if state is None or graph.node(state.node).kind is not Kind.STATE:
        return "it must write a state"
    return (
        None if graph.type_of(state) == graph.type_of(node.operand("value")) else "the written type differs"
    )
