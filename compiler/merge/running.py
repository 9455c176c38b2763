"""Running one operation of the graph on integers that stand for elements."""

from __future__ import annotations

from typing import Any

import torch

from compiler.evaluate import run_node
from compiler.ir.graph import Graph, Node, Value
from compiler.merge.attempt import Refusal
from compiler.merge.sizes import bindings


def run_on(
    graph: Graph, node: Node, source: Value, code: torch.Tensor, others: dict[Value, Any]
) -> list[torch.Tensor]:
    """Return the operation's outputs on integers in place of its data; raises Refusal where it cannot run."""
    values: dict[Value, Any] = {source: code, **others}
    try:
        run_node(node, values, bindings(graph))
    except (RuntimeError, KeyError, NotImplementedError) as error:
        raise Refusal(f"where it moves elements is not known: {str(error).splitlines()[0]}") from error
    return [values[Value(node.name, i)] for i in range(len(node.types))]
