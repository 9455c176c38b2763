"""What lies between a value and an operation: the parts in which one named function may be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from compiler.evaluate import run_node
from compiler.ir.graph import Graph, Kind, Node, Value

Inside = Callable[[Node], bool]


def sources(graph: Graph, root: Node, inside: Inside, most: int) -> list[Value]:
    """Return what `root` may be a function of, through operations that are `inside`, the farthest first."""
    found: dict[Value, None] = {}
    level = [root]
    while level and len(found) < most:
        values = [v for node in level for _, v in node.values() if graph.constant(v) is None]
        fresh = [v for v in dict.fromkeys(values) if v not in found]
        found.update(dict.fromkeys(fresh))
        level = [p for v in fresh if inside(p := graph.producer(v))]
    return list(reversed(found))


def between(graph: Graph, source: Value, root: Node, inside: Inside, most: int) -> list[Node] | None:
    """Return the operations from a value to `root`, in order.

    None where another value than the source and single numbers takes part, an operation is not
    `inside`, or there are more than `most`.
    """
    parts: dict[str, Node] = {}
    seen: set[str] = set()  # what is reached counts before what it needs does: chains can be long

    def reach(node: Node) -> bool:
        if node.name in parts:
            return True
        seen.add(node.name)
        if not inside(node) or len(seen) > most:
            return False
        values = [v for _, v in node.values() if v != source]
        if not all(_is_number(graph, v) or reach(graph.producer(v)) for v in values):
            return False
        parts[node.name] = node
        return True

    return list(parts.values()) if reach(root) else None


@torch.no_grad()
def computed(graph: Graph, parts: Sequence[Node], source: Value, x: torch.Tensor) -> torch.Tensor:
    """Return what the last of `parts` gives in float64 where the source is `x`."""
    values: dict[Value, torch.Tensor] = {source: x}
    for value in _constants(graph, parts):
        tensor = graph.constant(value)
        assert tensor is not None
        values[value] = tensor.double().reshape(())
    for node in parts:
        run_node(node, values, {}, torch.float64)
    return values[parts[-1].value]


def _is_number(graph: Graph, value: Value) -> bool:
    tensor = graph.constant(value)
    return tensor is not None and tensor.numel() == 1 and tensor.is_floating_point()


def _constants(graph: Graph, parts: Sequence[Node]) -> Iterator[Value]:
    for node in parts:
        yield from (v for _, v in node.values() if graph.producer(v).kind is Kind.CONSTANT)
