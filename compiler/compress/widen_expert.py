r"""One expert with the mean weights on all rows, in place of E experts on a part each.

The first expert's operations are written again over the whole of what the rows were taken from;
shapes follow from torch's own meta kernels, and a reshape that counted the part's rows counts all.
Means are taken in float64 and rounded once. Whether the result is what the E experts with that mean
compute is for the caller to prove.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from compiler.compress.experts import SHAPES, Experts, Together
from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, TensorType, Value
from compiler.merge.attempt import Refusal


def widen_expert(editor: Editor, graph: Graph, experts: Experts, exits: Mapping[Value, Value]) -> Value:
    """Write one mean expert on all rows and return its result, which nothing reads yet.

    `graph` is the one the experts were found in; `exits` are the results of those replaced before.
    Raises Refusal where an operation cannot take all rows, or weights have no mean.
    """
    return _Widening(editor, graph, experts, exits).run()


def equalise(editor: Editor, graph: Graph, experts: Experts) -> None:
    """Put the mean weights into every one of the experts, where they stand."""
    means: dict[Together, Value] = {}
    for together in experts.constants:
        hint, last = f"{together[0].node}_equal", experts.steps[0][0]
        means[together] = editor.constant(mean_of(graph, together), hint, before=last)
    for names in experts.steps:
        changes = {path: means[t] for path, t in _reads(graph, names) if t in means}
        for name in names:
            node = graph.node(name)
            editor.update(dataclasses.replace(node, operands=_filled(node, changes)))


def stacked(graph: Graph, together: Together) -> torch.Tensor:
    """Return the weights of all experts in float64, the expert first."""
    tensors = [graph.constants[value.node].tensor for value in together]
    found = [t for t in tensors if t is not None]
    return torch.stack([t.to(torch.complex128 if t.is_complex() else torch.float64) for t in found])


def mean_of(graph: Graph, together: Together) -> torch.Tensor:
    """Return the mean of one weight over the experts; raises Refusal for integers that differ."""
    first = graph.constants[together[0].node].tensor
    assert first is not None
    stack = stacked(graph, together)
    if bool((stack == stack[0]).all()):
        return first
    if not (first.is_floating_point() or first.is_complex()):
        raise Refusal(f"{first.dtype} tables that differ have no mean", together[0].node)
    return stack.mean(0).to(first.dtype)


def _reads(graph: Graph, names: tuple[str, ...]) -> Iterator[tuple[str, Together]]:
    """Yield (operand path, what each expert reads there) for one step."""
    reads = [list(graph.node(name).values()) for name in names]
    for column in zip(*reads, strict=True):
        yield column[0][0], tuple(value for _, value in column)


def _filled(node: Node, changes: Mapping[str, Value]) -> tuple[tuple[str, Operand], ...]:
    """Return a node's operands with other values at some paths."""
    return tuple((key, _fill(operand, key, changes)) for key, operand in node.operands)


def _fill(operand: Operand, path: str, changes: Mapping[str, Value]) -> Operand:
    if isinstance(operand, tuple):
        return tuple(_fill(item, f"{path}.{i}", changes) for i, item in enumerate(operand))
    return changes.get(path, operand) if isinstance(operand, Value) else operand


class _Widening:
    """One expert being written; lives only inside `widen_expert`."""

    def __init__(self, editor: Editor, graph: Graph, experts: Experts, exits: Mapping[Value, Value]) -> None:
        self.editor, self.graph, self.experts, self.exits = editor, graph, experts, exits
        order = experts.parts[0].order
        self.rows, self.part = order.size, order.stop - order.start
        self.new: dict[Together, Value] = {t: exits.get(v, v) for t, v in experts.entries}
        self.new |= {t: self._mean(t) for t in experts.constants}

    def run(self) -> Value:
        for names in self.experts.steps:
            self._step(names)
        result = self.new[tuple(part.value for part in self.experts.parts)]
        found, wanted = self.editor.graph.type_of(result), self.graph.type_of(self.experts.exit)
        if found != wanted:
            raise Refusal(f"one expert on all rows gives {found}, not {wanted}", self.experts.exit.node)
        return result

    def _mean(self, together: Together) -> Value:
        first = self.graph.producer(together[0])
        tensor = mean_of(self.graph, together)
        return self.editor.constant(tensor, f"{first.name}_mean", first.origin, self.experts.exit.node)

    def _step(self, names: tuple[str, ...]) -> None:
        node = self.graph.node(names[0])
        changes = {path: self._now(together) for path, together in _reads(self.graph, names)}
        node = dataclasses.replace(node, operands=self._stretched(node, changes))
        types = self._types(node)
        value = self.editor.op(
            node.op, dict(node.operands), types, node.name, node.origin, node.source, self.experts.exit.node
        )
        for index in range(len(types)):
            self.new[tuple(Value(name, index) for name in names)] = Value(value.node, index)

    def _now(self, together: Together) -> Value:
        """Return what the one expert reads where the experts read this; else all share it."""
        return self.new.get(together) or self.exits.get(together[0], together[0])

    def _stretched(self, node: Node, changes: Mapping[str, Value]) -> tuple[tuple[str, Operand], ...]:
        operands = dict(_filled(node, changes))
        for key in SHAPES:
            if key in operands:
                operands[key] = self._shape(node, operands[key])
        return tuple(operands.items())

    def _shape(self, node: Node, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a shape with all rows for the part's: in a dimension of just those, or of a multiple."""
        own = [i for i, size in enumerate(shape) if size == self.part]
        multiples = [i for i, size in enumerate(shape) if isinstance(size, int) and size % self.part == 0]
        place = self.experts.dim if self.experts.dim in own else next(iter([*own, *multiples]), None)
        if place is None:
            raise Refusal(f"the shape {list(shape)} has no place for all rows", node.name)
        whole = shape[place] // self.part * self.rows
        return (*shape[:place], whole, *shape[place + 1 :])

    def _types(self, node: Node) -> tuple[TensorType, ...]:
        """Return the types of an operation's results, as torch's meta kernels tell them."""
        values = {value: self._meta(value) for _, value in node.values()}
        try:
            run_node(node, values, {})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise Refusal(f"the operation cannot take all rows at once ({reason})", node.name) from error
        outputs = [values[Value(node.name, index)] for index in range(len(node.types))]
        return tuple(TensorType(tuple(y.shape), y.dtype) for y in outputs)

    def _meta(self, value: Value) -> torch.Tensor:
        type_ = self.editor.graph.type_of(value)
        if not type_.static:
            raise Refusal("the experts' shapes are not fixed", value.node)
        shape = [int(str(d)) for d in type_.shape]
        return torch.empty(shape, dtype=type_.dtype, device="meta")
