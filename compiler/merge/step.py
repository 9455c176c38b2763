"""The operations a region is emitted as, before they are put in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from compiler.cost.composite import Composite
from compiler.cost.counts import FREE
from compiler.cost.kernel import Kernel, TensorSpec, kernel_call
from compiler.ir.graph import Dim, Node, Operand, Sym, TensorType


@dataclass(frozen=True)
class Ref:
    """The result of step `index`; -1 is the region's entry."""

    index: int


ENTRY = Ref(-1)


@dataclass(frozen=True, eq=False)
class Step:
    """One operation to emit; tensors among the operands become constants, `Ref`s read earlier steps.

    `output` is the index of the result where the operation has several.
    """

    op: str
    operands: dict[str, Operand]
    types: tuple[TensorType, ...]
    output: int = 0

    @property
    def type(self) -> TensorType:
        """The type of the result."""
        return self.types[self.output]


@dataclass(frozen=True)
class Program:
    """Steps in order, and the value they end in; `found` is the algebraic form they write, in words.

    A `whole` program is priced as one kernel: its steps share an image that a runtime lays out once.
    """

    steps: tuple[Step, ...]
    result: Ref
    note: str = ""
    found: str = ""
    shape_only: bool = False  # exact for the compiled shape only
    whole: bool = False

    def kernels(self, entry: TensorType, size: Callable[[Dim], int]) -> tuple[Kernel, ...]:
        """Return the kernels of all steps, or the one of a `whole` program of several.

        `entry` is the type the program begins at.
        """
        types = [s.type for s in self.steps]

        def spec(operand: Operand) -> Operand:
            if isinstance(operand, torch.Tensor):
                return TensorSpec(tuple(operand.shape), _name(entry.dtype), True)
            if isinstance(operand, Ref):
                type_ = entry if operand == ENTRY else types[operand.index]
                return TensorSpec(tuple(size(d) for d in type_.shape), _name(type_.dtype), False)
            if isinstance(operand, tuple):
                return tuple(spec(o) for o in operand)
            return operand if isinstance(operand, bool | str | float | type(None)) else _plain(operand, size)

        calls = tuple(kernel_call(s.op, {k: spec(o) for k, o in s.operands.items()}) for s in self.steps)
        if not self.whole or sum(c.op not in FREE for c in calls) < 2:
            return calls
        reads = [tuple(_reads(step, call)) for step, call in zip(self.steps, calls, strict=True)]
        return (Composite(calls, reads, [step.output for step in self.steps]),)


def _reads(step: Step, call: Kernel) -> Iterator[int]:
    """Yield which result each data operand of a call is, in the order of its schema."""
    for key, _ in call.operands:
        operand = step.operands.get(key)
        for item in operand if isinstance(operand, tuple) else (operand,):
            if isinstance(item, Ref):
                yield item.index


def _plain(operand: Operand, size: Callable[[Dim], int]) -> Operand:
    return operand if isinstance(operand, int | torch.dtype) else size(operand)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass
class Writer:
    """Collects steps; each call returns where its result is."""

    dtype: torch.dtype
    steps: list[Step] = field(default_factory=list)

    def op(self, op: str, shape: Sequence[Dim], operands: dict[str, Operand]) -> Ref:
        """Add one operation."""
        self.steps.append(Step(op, operands, (TensorType(tuple(shape), self.dtype),)))
        return Ref(len(self.steps) - 1)

    def copy(self, node: Node, source: str, at: Ref, type_: TensorType, index: int) -> Ref:
        """Add an operation of the graph again, reading `at` in place of the operand `source`."""
        operands = {k: at if k == source else o for k, o in node.operands}
        types = tuple(type_ if i == index else t for i, t in enumerate(node.types))
        self.steps.append(Step(node.op, operands, types, index))
        return Ref(len(self.steps) - 1)

    def program(self, result: Ref, note: str = "", shape_only: bool = False) -> Program:
        """Return what was written."""
        return Program(tuple(self.steps), result, note, shape_only=shape_only)


def arrange(
    writer: Writer, at: Ref, shape: tuple[Dim, ...], axis: int, to: tuple[Dim, ...], to_axis: int
) -> Ref:
    """Bring a value with its channels on `axis` to the shape `to` with them on `to_axis`.

    The positions stay in order.
    """
    here, there = _without(shape, axis), _without(to, to_axis)
    if here == there:
        return _permuted(writer, at, shape, axis, to_axis)
    if axis == to_axis and here[:axis] == there[:axis]:
        return writer.op("aten.reshape.default", to, {"self": at, "shape": to})
    if to_axis == len(to) - 1 and axis > 0 and here[:axis] == there[:axis]:
        flat = (*here[:axis], shape[axis], _product(here[axis:]))
        at = writer.op("aten.reshape.default", flat, {"self": at, "shape": flat})
        at = _permuted(writer, at, flat, axis, len(flat) - 1)
        shape, axis = (*here[:axis], flat[-1], flat[axis]), len(flat) - 1
    else:
        at = _permuted(writer, at, shape, axis, len(shape) - 1)
        shape, axis = (*here, shape[axis]), len(shape) - 1
    last = (*there, to[to_axis])
    if shape != last:
        at = writer.op("aten.reshape.default", last, {"self": at, "shape": last})
    return _permuted(writer, at, last, len(last) - 1, to_axis)


def _permuted(writer: Writer, at: Ref, shape: tuple[Dim, ...], axis: int, to: int) -> Ref:
    if axis == to:
        return at
    order = [i for i in range(len(shape)) if i != axis]
    order.insert(to, axis)
    made = tuple(shape[i] for i in order)
    if [i for i in order if shape[i] != 1] == [i for i, d in enumerate(shape) if d != 1]:
        return writer.op("aten.reshape.default", made, {"self": at, "shape": made})  # nothing moves
    return writer.op("aten.permute.default", made, {"self": at, "dims": tuple(order)})


def _without(shape: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
    return tuple(d for i, d in enumerate(shape) if i != axis)


def _product(dims: tuple[Dim, ...]) -> Dim:
    if all(isinstance(d, int) for d in dims):
        return math.prod(d for d in dims if isinstance(d, int))
    return Sym("*".join(f"({d})" for d in dims))
