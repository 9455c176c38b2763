"""Which node of the graph an operation of the flatbuffer came from.

The converter writes the stack of torch modules behind an operation into the name of its output tensor,
as `Class_attribute/...;number`, and names a result by its number alone. So each node is exported
inside a module of its own, whose attribute is its name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compiler.export import GraphModule
from compiler.ir.graph import Graph, Node

_PREFIX = "at_"
_NAME = re.compile(rf"_{_PREFIX}([a-z0-9_]+)(?:;|/|$)")
_RESULT = re.compile(r"output_([0-9]+)_output$")


class TracedGraph(GraphModule):
    """A graph as a module in which each operation runs in a submodule that bears its name."""

    def __init__(self, graph: Graph) -> None:
        """Make a submodule for each operation."""
        super().__init__(graph)
        for node in graph.ops():
            self.add_module(_PREFIX + node.name, _Step(self, node))

    def _step(self, node: Node, values: dict[Any, Any], bindings: Mapping[str, int]) -> None:
        step: Callable[..., None] = getattr(self, _PREFIX + node.name)
        step(values, bindings)


class _Step(nn.Module):
    def __init__(self, graph: GraphModule, node: Node) -> None:
        super().__init__()
        self.run: Callable[..., None] = functools.partial(GraphModule._step, graph, node)

    def forward(self, values: dict[Any, Any], bindings: Mapping[str, int]) -> None:
        self.run(values, bindings)


def origin(tensor: str, graph: Graph) -> str:
    """Return the IR node behind a tensor of the flatbuffer, '' where its name does not tell."""
    if found := _NAME.search(tensor):
        return found[1]
    if found := _RESULT.search(tensor):
        return str(list(graph.output.values())[int(found[1])][1].node)
    return ""
