"""Digests of graphs: Merkle hashes, so that names and written order do not matter.

A node's hash covers its operation, operands (values by their own hashes) and types. The structure
digest leaves weight contents out; the content digest covers them. Both cost one linear walk.
"""

from __future__ import annotations

import hashlib

from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.ir.text import print_operand


def structure_digest(graph: Graph) -> str:
    """Return a digest of the computation without its weights' contents, 16 hexadecimal digits."""
    return _digest(graph, contents=False)


def content_digest(graph: Graph) -> str:
    """Return a digest of the computation with its weights' contents, 16 hexadecimal digits."""
    return _digest(graph, contents=True)


def _digest(graph: Graph, contents: bool) -> str:
    hashes: dict[str, str] = {}
    places = {n.name: i for i, n in enumerate(graph.inputs())}
    for node in graph.nodes():
        hashes[node.name] = _hash(_describe(graph, node, hashes, places, contents))
    effects = sorted(hashes[n.name] for n in graph.writes())
    return _hash("|".join([hashes["output"], *effects, *(str(t) for n in graph.inputs() for t in n.types)]))


def _describe(
    graph: Graph, node: Node, hashes: dict[str, str], places: dict[str, int], contents: bool
) -> str:
    identity = node.op or node.kind.value
    if node.kind is Kind.INPUT:
        identity += str(places[node.name])
    elif contents and node.kind in (Kind.CONSTANT, Kind.STATE):
        identity += graph.constants[node.name].digest
    operands = ",".join(f"{key}={_operand(operand, hashes)}" for key, operand in node.operands)
    return f"{identity}({operands}):{'|'.join(map(str, node.types))}"


def _operand(operand: Operand, hashes: dict[str, str]) -> str:
    if isinstance(operand, Value):
        return f"{hashes[operand.node]}#{operand.index}"
    if isinstance(operand, tuple):
        return "[" + ",".join(_operand(item, hashes) for item in operand) + "]"
    return print_operand(operand)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
