"""A kernel: one call of an ATen operation without its data, the unit that latencies are measured in.

Every tensor operand is replaced by its `TensorSpec`, weights marked as such, because runtimes pack
and prepare constants ahead of time; numbers, sizes and flags stay. Two nodes of one or of different
models that make the same call are the same kernel and share one price. The text of a kernel is its
key in a latency table, and reads back equal:

    aten.conv2d.default(input=float32[1,96,28,28], weight=const float32[96,1,7,7],
        bias=const float32[96], stride=[1,1], padding=[3,3], dilation=[1,1], groups=96)   # on one line
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from compiler.cost.counts import Counts, counts
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import run_node
from compiler.ir.dims import hint
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Sym, TensorType, Value
from compiler.ir.schema import freeze, normalize
from compiler.ir.text import parse_graph, print_operand
from compiler.ir.verify import verify

_SPEC = re.compile(r'"(?:[^"\\]|\\.)*"|(?P<const>const )?\b(?P<dtype>[a-z]\w*)\[(?P<shape>[\d, ]*)\]')


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its data: static shape, dtype such as `float32`, and whether it is a weight."""

    shape: tuple[int, ...]
    dtype: str
    constant: bool

    @property
    def type(self) -> TensorType:
        """Shape and dtype as the IR has them."""
        return TensorType(self.shape, getattr(torch, self.dtype))

    def __str__(self) -> str:
        """Return `const float32[96,1,7,7]`."""
        return f"{'const ' if self.constant else ''}{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Kernel:
    """One call of an ATen op: operands by schema name, all of them, tensors as `TensorSpec`.

    Make one with `kernel_call` or `kernel_of`, which fill in the schema's defaults, so that equal
    calls are equal kernels. Kernels are compared by their texts: to Python 1 equals 1.0, to an
    operation the two differ.
    """

    op: str
    operands: tuple[tuple[str, Any], ...]

    def __eq__(self, other: object) -> bool:
        """Compare by text."""
        return isinstance(other, Kernel) and self.text == other.text

    def __hash__(self) -> int:
        """Hash by text."""
        return hash(self.text)

    @cached_property
    def text(self) -> str:
        """The key of the kernel; `parse_kernel` is the inverse."""
        return f"{self.op}({', '.join(f'{key}={_print(operand)}' for key, operand in self.operands)})"

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    @property
    def calls(self) -> tuple[Kernel, ...]:
        """The calls that are measured together: this one."""
        return (self,)

    def tensors(self) -> Iterator[TensorSpec]:
        """Yield the tensor operands in schema order, those inside lists included."""
        for _, operand in self.operands:
            yield from _specs(operand)


def kernel_call(op: str, operands: Mapping[str, Any]) -> Kernel:
    """Return the kernel of a call; operands left out take the schema's defaults.

    A `torch.Tensor` among the operands counts as a weight, its data is dropped.
    Raises KeyError for an unknown operator or operand, ValueError for a missing one.
    """
    given = {key: _without_data(freeze(operand)) for key, operand in operands.items()}
    return Kernel(op, normalize(op, (), given))


def kernel_of(graph: Graph, node: Node) -> Kernel:
    """Return the kernel of an operation of a graph; a symbolic dimension takes its example size."""
    return kernel_call(node.op, {key: _described(graph, operand) for key, operand in node.operands})


def parse_kernel(text: str) -> Kernel:
    """Read a kernel from its text; raises UsageError saying what cannot be read."""
    specs: list[TensorSpec] = []

    def named(match: re.Match[str]) -> str:
        if match["dtype"] is None:  # a string operand
            return match[0]
        specs.append(_parse_spec(match, text))
        return f"%t{len(specs) - 1}"

    # The text IR reads everything but the specs, for which values stand in.
    call = _SPEC.sub(named, text)
    inputs = "\n".join(f"  %t{i} = input : {spec.type}" for i, spec in enumerate(specs))
    try:
        node = parse_graph(f"graph {{\n{inputs}\n  %call = {call}\n}}").node("call")
    except UsageError as error:
        raise UsageError(f"{text!r} is not a kernel: {error}") from error
    return Kernel(node.op, tuple((key, _filled(operand, specs)) for key, operand in node.operands))


@lru_cache(maxsize=4096)
def output_types(kernel: Kernel) -> tuple[TensorType, ...]:
    """Return the types of a kernel's outputs, which torch tells on its meta device.

    Raises UnsupportedModelError where they depend on data, or the call is none torch takes.
    """
    node = _node(kernel)
    values: dict[Value, Any] = {
        value: torch.empty(spec.shape, dtype=spec.type.dtype, device="meta")
        for (_, value), spec in zip(node.values(), kernel.tensors(), strict=True)
    }
    try:
        with torch.no_grad():
            run_node(node, values, {})
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedModelError(f"the kernel {kernel.text} has no static outputs: {reason}") from error
    outputs = [value for key, value in values.items() if key.node == node.name]
    return tuple(TensorType(tuple(t.shape), t.dtype) for t in outputs)


def kernel_counts(kernel: Kernel) -> Counts:
    """Return the multiply-accumulates and bytes of a kernel, as `counts.node_counts` does for a node."""
    if kernel.calls != (kernel,):
        parts = [kernel_counts(call) for call in kernel.calls]
        return Counts(sum(p.macs for p in parts), sum(p.bytes for p in parts))
    outputs = output_types(kernel)
    shapes = [spec.shape for spec in kernel.tensors()]
    return counts(kernel.op, shapes, [_static(t) for t in outputs], outputs[0].dtype.itemsize)


def kernel_graph(kernel: Kernel, seed: int = 0) -> Graph:
    """Return a verified graph of this one call, which any target can lower.

    Data operands are inputs in schema order; weights are constants, drawn from 0.5 to 1.5 by `seed`
    (positive, as variances must be; the time of a dense kernel does not depend on their values),
    and zeros where they are whole numbers, which are valid indices.
    """
    editor, generator = Editor(), torch.Generator().manual_seed(seed)
    node, types, places = _node(kernel), output_types(kernel), {}
    for (path, value), spec in zip(node.values(), kernel.tensors(), strict=True):
        if spec.constant:
            places[value] = editor.constant(drawn_weight(spec, generator), path)
        else:  # not named by its operand: `self` cannot be a module's input
            places[value] = editor.input("x", spec.type)
    operands = {key: _replaced(operand, places) for key, operand in node.operands}
    result = editor.op(kernel.op, operands, types, "result")
    editor.output(Value(result.node, index) for index in range(len(types)))
    graph = editor.finish()
    verify(graph)
    return graph


def _print(operand: Operand) -> str:
    if isinstance(operand, TensorSpec):
        return str(operand)
    if isinstance(operand, tuple):
        return "[" + ",".join(map(_print, operand)) + "]"
    return print_operand(operand)


def _specs(operand: Operand) -> Iterator[TensorSpec]:
    if isinstance(operand, TensorSpec):
        yield operand
    elif isinstance(operand, tuple):
        for item in operand:
            yield from _specs(item)


def _without_data(operand: Operand) -> Operand:
    if isinstance(operand, torch.Tensor):
        return TensorSpec(tuple(operand.shape), _dtype_name(operand.dtype), True)
    if isinstance(operand, tuple):
        return tuple(map(_without_data, operand))
    return operand


def _described(graph: Graph, operand: Operand) -> Operand:
    if isinstance(operand, Value):
        type_ = graph.type_of(operand)
        shape = tuple(hint(graph, d) for d in type_.shape)
        constant = graph.node(operand.node).kind is Kind.CONSTANT
        return TensorSpec(shape, _dtype_name(type_.dtype), constant)
    if isinstance(operand, Sym):
        return hint(graph, operand)
    if isinstance(operand, tuple):
        return tuple(_described(graph, item) for item in operand)
    return operand


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parse_spec(match: re.Match[str], text: str) -> TensorSpec:
    if not isinstance(getattr(torch, match["dtype"], None), torch.dtype):
        raise UsageError(f"{text!r} is not a kernel: torch has no dtype {match['dtype']!r}")
    shape = tuple(int(size) for size in match["shape"].split(",") if size.strip())
    return TensorSpec(shape, match["dtype"], match["const"] is not None)


def _filled(operand: Operand, specs: list[TensorSpec]) -> Operand:
    if isinstance(operand, Value):
        return specs[int(operand.node.removeprefix("t"))]
    if isinstance(operand, tuple):
        return tuple(_filled(item, specs) for item in operand)
    return operand


def _node(kernel: Kernel) -> Node:
    """Return the call as a node that reads a value of its own for each tensor operand."""
    numbers = iter(range(sum(1 for _ in kernel.tensors())))
    operands = tuple((key, _numbered(operand, numbers)) for key, operand in kernel.operands)
    return Node("call", Kind.OP, kernel.op, operands)


def _numbered(operand: Operand, numbers: Iterator[int]) -> Operand:
    if isinstance(operand, TensorSpec):
        return Value(f"t{next(numbers)}")
    if isinstance(operand, tuple):
        return tuple(_numbered(item, numbers) for item in operand)
    return operand


def _replaced(operand: Operand, places: Mapping[Value, Value]) -> Operand:
    if isinstance(operand, Value):
        return places[operand]
    if isinstance(operand, tuple):
        return tuple(_replaced(item, places) for item in operand)
    return operand


def drawn_weight(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    """Return a stand-in for a weight: positive where it is floating, zeros where it holds whole numbers."""
    if not spec.type.dtype.is_floating_point:
        return torch.zeros(spec.shape, dtype=spec.type.dtype)
    return (torch.rand(spec.shape, generator=generator) + 0.5).to(spec.type.dtype)


def _static(type_: TensorType) -> tuple[int, ...]:
    return tuple(d for d in type_.shape if isinstance(d, int))
