"""Many calls of one graph, run side by side and operation by operation, while its weights are changed.

What decides a layer's new weights is what reaches it behind the layers that have their new weights
already. So all calls stand at the same operation, a changed operation is run in its new form, and what
nothing reads any more is dropped: memory holds the values that are alive, for all calls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from compiler.evaluate import run_node
from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.schema import draws


class Track:
    """The values of all calls up to one operation.

    `kept` names operations whose output stays until `take` has fetched it.
    """

    def __init__(
        self, graph: Graph, samples: Sequence[Sequence[torch.Tensor]], kept: Collection[str] = ()
    ) -> None:
        """Start in front of the first operation; a sample holds the flat inputs of a call."""
        self.graph, self.kept = graph, frozenset(kept)
        inputs = graph.inputs()
        self._known = {Value(name): _tensor(graph, name) for name in graph.constants}
        self._calls: list[dict[Value, Any]] = [
            {n.value: t for n, t in zip(inputs, sample, strict=True)} for sample in samples
        ]
        self._bindings = [bind([n.type for n in inputs], [t.shape for t in sample]) for sample in samples]
        self._unread = {n.name: graph.nx.out_degree(n.name) for n in graph.nodes()}
        self._ahead = iter(graph.ops())
        self._done: set[str] = set()

    def run(self, node: Node) -> None:
        """Run an operation, in the form given, for all calls."""
        self.again(node)
        self._done.add(node.name)
        self._release(node)

    @torch.no_grad()
    def again(self, node: Node) -> None:
        """Run an operation whose stored operands have changed since it ran."""
        outputs = [Value(node.name, i) for i in range(len(node.types))]
        reads = [v for _, v in node.values()]
        if reads and all(v in self._known for v in reads) and not draws(node):
            run_node(node, self._known, {})
            return
        for call, binding in zip(self._calls, self._bindings, strict=True):
            values = {v: call[v] if v in call else self._known[v] for v in reads}
            run_node(node, values, binding)
            call.update({v: values[v] for v in outputs})

    def reach(self, name: str) -> None:
        """Run all operations up to the named one, in order."""
        while name not in self._done:
            self.run(next(self._ahead))

    def read(self, value: Value) -> list[torch.Tensor]:
        """Return a value of each call."""
        return [call[value] if value in call else self._known[value] for call in self._calls]

    def take(self, value: Value) -> list[torch.Tensor]:
        """Return a kept value of each call and drop it where nothing is left to read it."""
        found = self.read(value)
        self.kept -= {value.node}
        if not self._unread[value.node]:
            self._drop(value.node)
        return found

    def store(self, name: str, tensor: torch.Tensor) -> None:
        """Put a new tensor in the place of a constant, or beside them."""
        self._known[Value(name)] = tensor

    def results(self) -> list[list[Any]]:
        """Run what is left and return the flat results of each call."""
        for node in self._ahead:
            self.run(node)
        operands = [operand for _, operand in self.graph.output.operands]
        pairs = zip(self._calls, self._bindings, strict=True)
        return [[resolve_operand(o, {**self._known, **call}, b) for o in operands] for call, b in pairs]

    def _release(self, node: Node) -> None:
        for _, value in self.graph.node(node.name).values():
            self._unread[value.node] -= 1
            if not self._unread[value.node] and value.node not in self.kept:
                self._drop(value.node)

    def _drop(self, name: str) -> None:
        node = self.graph.node(name)
        for values in (self._known, *self._calls) if node.kind is Kind.OP else ():
            for index in range(len(node.types)):
                values.pop(Value(name, index), None)


def _tensor(graph: Graph, name: str) -> torch.Tensor:
    found = graph.constants[name].tensor
    assert found is not None, f"constant {name!r} has no data"
    return found
