"""A whole program as a kernel: what a graph takes on a device, its operations together."""

from __future__ import annotations

from functools import cached_property

from compiler.cost.kernel import Kernel
from compiler.ir.digest import structure_digest
from compiler.ir.graph import Graph
from compiler.ir.text import parse_graph, print_graph

PREFIX = "program "


class WholeProgram(Kernel):
    """A graph of static shapes, keyed by its structure: what its weights hold does not count."""

    graph: Graph

    def __init__(self, graph: Graph) -> None:
        """Keep the graph."""
        super().__init__("program", ())
        object.__setattr__(self, "graph", graph)

    @cached_property
    def text(self) -> str:
        """The key: `program 0123456789abcdef of 12 operations`."""
        return f"{PREFIX}{structure_digest(self.graph)} of {sum(1 for _ in self.graph.ops())} operations"

    @cached_property
    def written(self) -> str:
        """The graph as text IR, without its weights; `read_program` is the inverse."""
        return print_graph(self.graph)


def read_program(written: str) -> WholeProgram:
    """Return a program of constants without data; UsageError for what is no text IR."""
    return WholeProgram(parse_graph(written))
