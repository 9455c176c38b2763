"""The choices that compressing a graph leaves open, one kernel an option: precision, and width.

A precision's option is the call in it. A width's is the call with fewer output channels, on the step
at which runtimes pad anyway: widths between two steps cost what the upper one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from compiler.compress.quantize_int4 import GROUP
from compiler.cost.choices import Choice, Option
from compiler.cost.kernel import Kernel, TensorSpec, kernel_call, kernel_of
from compiler.cost.quantized import Quantized
from compiler.ir.graph import Graph
from compiler.merge.site import site
from compiler.target import FLOAT, FLOAT16, INT4, INT8, INT8_DYNAMIC

STEP = 8  # channels: what a vector of int8, or two of float32, holds on Arm
SHARES = (0.75, 0.5)
_WEIGHTED = ("aten.conv2d.default", "aten.conv1d.default", "aten.linear.default")


def precision_choices(graph: Graph, precisions: Collection[str]) -> tuple[Choice, ...]:
    """Return, for each distinct call with a constant weight, the choice among a target's precisions."""
    return tuple(
        Choice(where, "precision", options)
        for where, kernel in _weighted(graph)
        if len(options := tuple(_precisions(kernel, precisions))) > 1
    )


def width_choices(graph: Graph, step: int = STEP) -> tuple[Choice, ...]:
    """Return, for each distinct call whose output channels could be fewer, the choice among widths."""
    return tuple(
        Choice(where, "width", options)
        for where, kernel in _weighted(graph)
        if len(options := tuple(_widths(kernel, step))) > 1
    )


def _weighted(graph: Graph) -> Iterator[tuple[str, Kernel]]:
    """Yield each distinct float call with a constant weight, with the first site it stands at."""
    seen: set[Kernel] = set()
    for node in graph.ops():
        if node.op in _WEIGHTED:
            kernel = kernel_of(graph, node)
            weight = dict(kernel.operands)["weight"]
            if kernel not in seen and weight.constant and weight.type.dtype.is_floating_point:
                seen.add(kernel)
                yield site(graph, (node.name,)), kernel


def _precisions(kernel: Kernel, has: Collection[str]) -> Iterator[Option]:
    yield Option(FLOAT, (kernel,))
    if FLOAT16 in has:
        yield Option(FLOAT16, (Quantized(kernel, FLOAT16),))
    if INT8 in has:
        yield Option(INT8, (Quantized(kernel, INT8),))
    if INT8_DYNAMIC in has and kernel.op == "aten.linear.default":  # runtimes have few others
        yield Option(INT8_DYNAMIC, (Quantized(kernel, INT8_DYNAMIC),))
    if INT4 in has and kernel.op == "aten.linear.default":
        weight: TensorSpec = dict(kernel.operands)["weight"]
        if weight.shape[1] % GROUP == 0:
            yield Option(INT4, (Quantized(kernel, INT4),))


def _widths(kernel: Kernel, step: int) -> Iterator[Option]:
    operands = dict(kernel.operands)
    weight: TensorSpec = operands["weight"]
    channels = weight.shape[0]
    yield Option(f"{channels} channels", (kernel,))
    if operands.get("groups", 1) != 1:
        return
    widths = {max(step, round(share * channels / step) * step) for share in SHARES}
    for width in sorted(widths - {channels}, reverse=True):
        if width < channels:
            changed = {"weight": _narrow(weight, width), "bias": _narrow(operands["bias"], width)}
            yield Option(f"{width} channels", (kernel_call(kernel.op, {**operands, **changed}),))


def _narrow(spec: TensorSpec | None, width: int) -> TensorSpec | None:
    return spec and TensorSpec((width, *spec.shape[1:]), spec.dtype, spec.constant)
