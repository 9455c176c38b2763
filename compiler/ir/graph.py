"""The graph IR: ATen operations over named values, on a `networkx.MultiDiGraph`.

A graph holds five kinds of node: inputs, constants (weights, stored once: tied weights share one
node), states (buffers the model writes), operations (a functional ATen overload as
`run_decompositions({})` leaves it, operands by schema name), writes (the explicit effect of
storing a value in a state) and one output. An edge runs from the node that makes a value to each
node that reads it, keyed by the operand it fills.

Values are frozen. Only `compiler.ir.edit.Editor` changes a graph, and only the editor's own copy:
a `Graph` that a pass has returned never changes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import networkx as nx
import torch


@dataclass(frozen=True)
class Sym:
    """A dimension known only at run time: a Python expression over the graph's symbols."""

    text: str

    def __str__(self) -> str:
        """Return the expression."""
        return self.text


Dim: TypeAlias = int | Sym


@dataclass(frozen=True)
class Value:
    """Output `index` of the node called `node`."""

    node: str
    index: int = 0


# An operand is a Value, Sym, None, bool, int, float, str, dtype, device, layout, memory format,
# or a tuple of operands.
Operand: TypeAlias = Any


class Kind(StrEnum):
    """What a node is."""

    INPUT = "input"
    CONSTANT = "constant"
    STATE = "state"
    OP = "op"
    WRITE = "write"
    OUTPUT = "output"


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of a value."""

    shape: tuple[Dim, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def static(self) -> bool:
        """Whether every dimension is an integer."""
        return all(isinstance(d, int) for d in self.shape)

    def elements(self, unknown: int = 1) -> int:
        """Return the element count, with `unknown` in place of each symbolic dimension."""
        count = 1
        for d in self.shape:
            count *= d if isinstance(d, int) else unknown
        return count

    def bytes(self, unknown: int = 1) -> int:
        """Return the size in bytes, with `unknown` in place of each symbolic dimension."""
        return self.elements(unknown) * self.dtype.itemsize

    def __str__(self) -> str:
        """Return the type as the text IR prints it, `float32[n0, 3]`."""
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Node:
    """One node; `operands` are pairs in schema order, `types` one per output.

    `origin` is the path of the module that made it, or a weight's own path; `source` the line of
    the user's code. Neither takes part in equality.
    """

    name: str
    kind: Kind
    op: str = ""
    operands: tuple[tuple[str, Operand], ...] = ()
    types: tuple[TensorType, ...] = ()
    origin: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    @property
    def type(self) -> TensorType:
        """The type of the first output."""
        return self.types[0]

    @property
    def value(self) -> Value:
        """The first output."""
        return Value(self.name)

    def operand(self, name: str, default: Operand = None) -> Operand:
        """Return the operand of a schema name, or `default` where it was not given."""
        return next((value for key, value in self.operands if key == name), default)

    def values(self) -> Iterator[tuple[str, Value]]:
        """Yield (operand path, value) for each value read, nested tuples included."""
        for key, operand in self.operands:
            yield from values_in(operand, key)


def values_in(operand: Operand, path: str = "") -> Iterator[tuple[str, Value]]:
    """Yield (path, value) for each value inside an operand."""
    if isinstance(operand, Value):
        yield path, operand
    elif isinstance(operand, tuple):
        for i, item in enumerate(operand):
            yield from values_in(item, f"{path}.{i}")


class Constant:
    """A stored tensor with its content digest; compared by digest, never changed in place."""

    def __init__(self, tensor: torch.Tensor | None, digest: str | None = None) -> None:
        """Wrap a tensor; `tensor` is None for a constant read from text, known by digest alone."""
        if tensor is None and digest is None:
            raise ValueError("a constant needs a tensor or a digest")
        self.tensor = tensor
        self._digest = digest

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of dtype, shape and bytes."""
        if self._digest is not None:
            return self._digest
        assert self.tensor is not None
        tensor = self.tensor.detach().cpu().contiguous()
        header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        digest = hashlib.sha256(header)
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, Constant) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self.digest)


@dataclass(frozen=True)
class Signature:
    """How the flat inputs and outputs fold back into the model's own call.

    `in_spec` and `out_spec` are serialised pytree specs of `(args, kwargs)` and of the result;
    `leaves` lists the call's flat leaves in order, an input's name or a literal.
    """

    in_spec: str = ""
    out_spec: str = ""
    leaves: tuple[tuple[str, Operand], ...] = ()  # ("input", name) or ("literal", value)


class Symbol(NamedTuple):
    """The range of a size that is known only at run time, and what it was in the example call."""

    low: int
    high: int | None
    example: int | None = None


class Graph:
    """A verified, ordered view over the underlying `networkx.MultiDiGraph`."""

    def __init__(self) -> None:
        """Make an empty graph; fill it through `Editor`."""
        self.nx: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self.constants: dict[str, Constant] = {}
        self.symbols: dict[str, Symbol] = {}
        self.signature = Signature()
        self._order: list[Node] | None = None

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.nx)

    def __contains__(self, name: str) -> bool:
        """Tell whether a node of that name exists."""
        return name in self.nx

    def node(self, name: str) -> Node:
        """Return a node by name; KeyError where there is none."""
        node: Node = self.nx.nodes[name]["node"]
        return node

    def nodes(self) -> list[Node]:
        """Return all nodes in topological order, ties by the order they were written in."""
        if self._order is None:
            position = self.nx.nodes.data("position")
            names = nx.lexicographical_topological_sort(self.nx, key=lambda n: position[n])
            self._order = [self.node(n) for n in names]
        return self._order

    def ops(self) -> list[Node]:
        """Return the operations in topological order."""
        return [n for n in self.nodes() if n.kind is Kind.OP]

    def inputs(self) -> list[Node]:
        """Return the input nodes in call order."""
        return [n for n in self.nodes() if n.kind is Kind.INPUT]

    def writes(self) -> list[Node]:
        """Return the write effects in order."""
        return [n for n in self.nodes() if n.kind is Kind.WRITE]

    @property
    def output(self) -> Node:
        """The output node; its operands are the results in order."""
        return self.node("output")

    def users(self, name: str) -> list[Node]:
        """Return the nodes that read any output of a node, each once."""
        return [self.node(n) for n in self.nx.successors(name)]

    def uses(self, value: Value) -> list[tuple[Node, str]]:
        """Return (reader, operand path) for each use of a value."""
        return [
            (self.node(reader), path)
            for _, reader, path, data in self.nx.out_edges(value.node, keys=True, data=True)
            if data["index"] == value.index
        ]

    def producer(self, value: Value) -> Node:
        """Return the node that makes a value."""
        return self.node(value.node)

    def type_of(self, value: Value) -> TensorType:
        """Return the type of a value."""
        return self.node(value.node).types[value.index]

    def constant(self, value: Operand) -> torch.Tensor | None:
        """Return the tensor behind an operand that is a constant, else None."""
        if not isinstance(value, Value):
            return None
        stored = self.constants.get(value.node)
        return None if stored is None or self.node(value.node).kind is not Kind.CONSTANT else stored.tensor

    def copy(self) -> Graph:
        """Return a graph that can be edited apart from this one; tensors are shared."""
        other = Graph()
        other.nx = self.nx.copy()
        other.constants = dict(self.constants)
        other.symbols = dict(self.symbols)
        other.signature = self.signature
        return other

    def histogram(self) -> Mapping[str, int]:
        """Return op name -> count."""
        counts: dict[str, int] = {}
        for node in self.ops():
            counts[node.op] = counts.get(node.op, 0) + 1
        return counts

    def __eq__(self, other: object) -> bool:
        """Compare names, operations, operands, types, symbols and constants' contents."""
        return (
            isinstance(other, Graph)
            and self.symbols == other.symbols
            and self.signature == other.signature
            and {n.name: n for n in self.nodes()} == {n.name: n for n in other.nodes()}
            and [n.name for n in self.inputs()] == [n.name for n in other.inputs()]
            and self.constants == other.constants
        )

    __hash__ = None  # type: ignore[assignment]  # mutable inside an editor
