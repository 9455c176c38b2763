"""What stands between affine regions: operations that are no affine map of their input.

Nothing merges across an activation, a normalisation by what it normalises, a softmax, or a product of two
values that both come from the input. `explain` counts them; where two layers were expected to merge, the
barrier between them is the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.merge.affine_ops import affine
from compiler.merge.attempt import Attempt, Outcome
from compiler.merge.describe import describe, window
from compiler.passes.weight_only import weight_only

_SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.cat.default")
_LINEAR_EACH = ("mul", "div", "matmul", "mm", "bmm", "einsum", "conv", "linear")


def barriers(graph: Graph) -> list[Attempt]:
    """Return an attempt for each operation that is not affine and is read by, or reads, one that is."""
    known = weight_only(graph)
    found: list[Attempt] = []
    for node in graph.ops():
        if node.name in known or any(_affine(graph, v) for v in _results(node)):
            continue
        data = list(dict.fromkeys(v for _, v in node.values() if v.node not in known))
        if data and (any(_computes(graph, v) for v in data) or _read_by_affine(graph, node)):
            reason, around = _reason(graph, node, data), window(graph, node.name)
            names = (node.name,)
            found.append(
                Attempt(
                    node.origin,
                    data[0].node,
                    node.name,
                    names,
                    Outcome.BARRIER,
                    reason,
                    node.name,
                    window=around,
                )
            )
    return found


def _reason(graph: Graph, node: Node, data: list[Value]) -> str:
    name = describe(graph, node)
    if node.op in _SUMS:
        return f"{name} joins values that are no maps of one input, or not of one shape"
    if len(data) > 1 and node.op.split(".")[1].startswith(_LINEAR_EACH):
        return f"{name} multiplies values that all depend on the input"
    return f"{name} is not affine in its input"


def _results(node: Node) -> Iterator[Value]:
    return (Value(node.name, i) for i in range(len(node.types)))


def _affine(graph: Graph, value: Value) -> bool:
    return affine(graph, value) is not None


def _computes(graph: Graph, value: Value) -> bool:
    """Tell whether an affine operation that does more than move elements makes a value."""
    while (found := affine(graph, value)) is not None:
        if not found.relabels:
            return True
        value = found.terms[0]
    return False


def _read_by_affine(graph: Graph, node: Node) -> bool:
    work = [v for v in _results(node)]
    while work:
        value = work.pop()
        for reader, _ in graph.uses(value):
            for made in _results(reader) if reader.kind is Kind.OP else ():
                found = affine(graph, made)
                if found is not None and value in found.terms:
                    if not found.relabels:
                        return True
                    work.append(made)
    return False
