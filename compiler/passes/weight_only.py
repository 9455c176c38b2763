"""Which values the weights alone decide.

A node is weight-only when no input and no state reaches it, its shape is static, and neither it nor
anything before it draws random numbers or shows uninitialised memory: a random-partition MoE exports
`randperm -> sort` without a data input, and folding it would freeze one random routing (`merges.md`
1.10). Operations such as `zeros_like` read an operand for its shape only, and depend on nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from compiler.ir.graph import Graph, Kind, Node, Operand, Sym, Value
from compiler.ir.schema import draws
from compiler.passes.copies import COPY

# Operations whose `self` gives a shape and a dtype, never its contents.
SHAPE_ONLY = {
    COPY,
    "aten.zeros_like.default",
    "aten.ones_like.default",
    "aten.full_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
}
# Operations that move or repeat elements and compute nothing.
MOVEMENTS = {
    "aten.permute.default",
    "aten.reshape.default",
    "aten.expand.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
}
_UNINITIALISED = {
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.empty_permuted.default",
    "aten.empty_strided.default",
    "aten.new_empty.default",
    "aten.new_empty_strided.default",
}


def contents(node: Node) -> Iterator[Value]:
    """Yield the values whose contents a node reads, each time it reads them."""
    for path, value in node.values():
        if not (path == "self" and node.op in SHAPE_ONLY):
            yield value


def weight_only(graph: Graph) -> set[str]:
    """Return the names of all constants and of all operations that weights alone decide."""
    names: set[str] = set()
    for node in graph.nodes():
        known = all(value.node in names for value in contents(node))
        if node.kind is Kind.CONSTANT or (node.kind is Kind.OP and known and repeatable(node)):
            names.add(node.name)
    return names


def cone(graph: Graph, roots: Iterable[str], stored: Collection[str] = ()) -> set[str]:
    """Return the names of what computes `roots`, constants included; nothing beyond a `stored` node."""
    names = set(roots)
    work = list(names)
    while work:
        node = graph.node(work.pop())
        fresh = set() if node.name in stored else {value.node for value in contents(node)} - names
        names |= fresh
        work.extend(fresh)
    return names


def repeatable(node: Node) -> bool:
    """Tell whether an operation gives the same result at every call with the same operands."""
    return (
        not draws(node)
        and not node.op.startswith("quantized_decomposed.")  # int8 weights stay int8
        and node.op not in _UNINITIALISED
        and all(type_.static for type_ in node.types)
        and not _symbolic(node.operands)
    )


def _symbolic(operand: Operand) -> bool:
    return isinstance(operand, Sym) or (isinstance(operand, tuple) and any(map(_symbolic, operand)))
