"""The one way to change a graph.

A pass opens an editor on its input, edits in place, and returns `editor.finish()`:

    editor = Editor(graph)
    y = editor.op("aten.relu.default", {"self": x}, types, before="add")
    editor.replace_uses(Value("add"), y)
    return editor.finish()

The editor works on its own copy (one linear copy a pass), keeps edges and operands in step, and
keeps the written order: a new node takes the position of the node it is placed `before`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import torch

from compiler.ir.graph import Constant, Graph, Kind, Node, Operand, TensorType, Value
from compiler.ir.schema import normalize

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Editor:
    """In-place edits on a copy of a graph."""

    def __init__(self, graph: Graph | None = None) -> None:
        """Start from a copy of `graph`, or from nothing."""
        self.graph = Graph() if graph is None else graph.copy()
        self._next = 1 + max((d["position"][0] for _, d in self.graph.nx.nodes(data=True)), default=0)
        self._serial = 0
        self._suffix: dict[str, int] = {}

    def name(self, hint: str) -> str:
        """Return a free readable name made from a hint: `[a-z][a-z0-9_]*`."""
        base = re.sub(r"[^a-z0-9_]+", "_", hint.lower()).strip("_") or "value"
        base = base if base[0].isalpha() else f"n_{base}"
        if base not in self.graph and base != "output":
            return base
        count = self._suffix.get(base, 0) + 1
        while f"{base}_{count}" in self.graph:
            count += 1
        self._suffix[base] = count
        return f"{base}_{count}"

    def add(self, node: Node, before: str | None = None) -> Value:
        """Add a node, at the end or in front of `before`, and return its first output."""
        if node.name in self.graph:
            raise ValueError(f"the graph already has a node called {node.name!r}")
        self._serial += 1
        if before is None:
            position = (self._next, 0, self._serial)
            self._next += 1
        else:
            first = self.graph.nx.nodes[before]["position"]
            position = (first[0], first[1] - 1, self._serial)
        self.graph.nx.add_node(node.name, node=node, position=position)
        self._connect(node)
        self.graph._order = None
        return node.value

    def input(self, hint: str, type_: TensorType) -> Value:
        """Add an input."""
        return self.add(Node(self.name(hint), Kind.INPUT, types=(type_,)))

    def constant(
        self, tensor: torch.Tensor | Constant, hint: str, origin: str = "", before: str | None = None
    ) -> Value:
        """Add a constant."""
        stored = tensor if isinstance(tensor, Constant) else Constant(tensor)
        assert stored.tensor is not None
        return self._stored(Kind.CONSTANT, stored, hint, origin, before)

    def state(self, tensor: torch.Tensor, hint: str, origin: str = "") -> Value:
        """Add a buffer that the graph writes, with its first value."""
        return self._stored(Kind.STATE, Constant(tensor), hint, origin, None)

    def op(
        self,
        op: str,
        operands: Mapping[str, Operand],
        types: Iterable[TensorType],
        hint: str = "",
        origin: str = "",
        source: str = "",
        before: str | None = None,
    ) -> Value:
        """Add an operation and return its first output; operands left out take the schema's defaults."""
        name = self.name(hint or op.split(".")[1])
        return self.add(
            Node(name, Kind.OP, op, normalize(op, (), operands), tuple(types), origin, source), before
        )

    def ahead_of(self, node: Node, op: str, operands: Mapping[str, Operand], *types: TensorType) -> Value:
        """Add an operation in front of a node on behalf of its module; the node's own types by default."""
        made = types or node.types
        return self.op(op, operands, made, origin=node.origin, source=node.source, before=node.name)

    def write(self, state: Value, value: Value) -> None:
        """Add the effect of storing `value` in `state` when the graph ends."""
        self.add(
            Node(self.name(f"write_{state.node}"), Kind.WRITE, operands=(("state", state), ("value", value)))
        )

    def output(self, results: Iterable[Operand]) -> None:
        """Set the results, in order."""
        operands = tuple((f"r{i}", r) for i, r in enumerate(results))
        self.add(Node("output", Kind.OUTPUT, operands=operands))

    def update(self, node: Node) -> None:
        """Put a changed node in the place of the one with its name."""
        for producer in {v.node for _, v in self.graph.node(node.name).values()}:
            for key in list(self.graph.nx[producer][node.name]):
                self.graph.nx.remove_edge(producer, node.name, key)
        self.graph.nx.nodes[node.name]["node"] = node
        self._connect(node)
        self.graph._order = None

    def replace_uses(self, old: Value, new: Value, where: Callable[[Node], bool] = lambda _: True) -> None:
        """Make every reader of `old` that `where` accepts read `new`."""
        for reader in {n.name: n for n, _ in self.graph.uses(old)}.values():
            if where(reader):
                operands = tuple((key, substitute(operand, old, new)) for key, operand in reader.operands)
                self.update(dataclasses.replace(reader, operands=operands))

    def remove(self, name: str) -> None:
        """Remove a node that nothing reads."""
        readers = [n.name for n in self.graph.users(name)]
        if readers:
            raise ValueError(f"cannot remove {name!r}: {readers[:3]} read it")
        self.graph.nx.remove_node(name)
        self.graph.constants.pop(name, None)
        self.graph._order = None

    def remove_unread(self, names: Iterable[str]) -> None:
        """Remove the given operations, and whatever fed only them, while nothing reads them."""
        work = [n for n in names if n in self.graph]
        while work:
            name = work.pop()
            if name not in self.graph or self.graph.node(name).kind not in (Kind.OP, Kind.CONSTANT):
                continue
            if next(self.graph.nx.successors(name), None) is not None:
                continue
            producers = {v.node for _, v in self.graph.node(name).values()}
            self.remove(name)
            work.extend(producers)

    def finish(self) -> Graph:
        """Return the edited graph; the editor must not be used after."""
        return self.graph

    def _stored(self, kind: Kind, stored: Constant, hint: str, origin: str, before: str | None) -> Value:
        assert stored.tensor is not None
        type_ = TensorType(tuple(stored.tensor.shape), stored.tensor.dtype)
        name = self.name(hint)
        self.graph.constants[name] = stored
        return self.add(Node(name, kind, types=(type_,), origin=origin or hint), before)

    def _connect(self, node: Node) -> None:
        for path, value in node.values():
            self.graph.nx.add_edge(value.node, node.name, key=path, index=value.index)


def substitute(operand: Operand, old: Value, new: Value) -> Operand:
    """Return an operand with one value in the place of another."""
    if isinstance(operand, tuple):
        return tuple(substitute(item, old, new) for item in operand)
    return new if operand == old and isinstance(operand, Value) else operand


def with_values(operand: Operand, path: str, changes: Mapping[str, Value]) -> Operand:
    """Return an operand with other values at some paths, which are those of `Node.values`."""
    if isinstance(operand, tuple):
        return tuple(with_values(item, f"{path}.{i}", changes) for i, item in enumerate(operand))
    return changes.get(path, operand)
