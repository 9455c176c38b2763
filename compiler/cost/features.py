"""What a latency model sees of a kernel: its kind, and numbers that times are smooth in.

A kind is the operation as runtimes have code for it: a pointwise, a depthwise, a grouped and any other
convolution are four kinds; kernels that are measured as one, such as `conv2d + relu`, are a kind of
their own. Numbers are logarithms, in which a product of sizes is a sum and a power law a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.cost.counts import Counts
from compiler.cost.kernel import Kernel, TensorSpec, kernel_counts, output_types
from compiler.cost.roofline import PRIOR
from compiler.errors import UnsupportedModelError
from compiler.ir.graph import TensorType

NAMES = (
    "roofline",
    "macs",
    "bytes in",
    "bytes of weights",
    "bytes out",
    "taps",
    "channels in",
    "channels out",
    "stride",
)


@dataclass(frozen=True)
class Features:
    """A kernel's kind, its numbers in the order of `NAMES`, and the roofline prior's price of it."""

    kind: str
    values: tuple[float, ...]
    prior: float


def features(kernel: Kernel) -> Features | None:
    """Return what a model sees of a kernel; None for a whole program, which is none, and for no call."""
    calls = kernel.calls
    if any(call.op == "program" for call in calls):
        return None
    try:
        types = [output_types(call) for call in calls]
    except UnsupportedModelError:
        return None
    counts = kernel_counts(kernel)
    price = sum(PRIOR.cost(kernel_counts(call)) for call in calls) or 1.0
    values = _values(kernel, types[0], types[-1], counts)
    return Features(kind(kernel), (math.log(price), *values), price)


def kind(kernel: Kernel) -> str:
    """Return the kind of a kernel: `conv2d pointwise`, `linear`, `conv2d + relu`, `int8 linear`."""
    precision = getattr(kernel, "precision", "")
    kinds = " + ".join(map(_kind, kernel.calls))
    return f"{precision} {kinds}" if precision else kinds


def _kind(call: Kernel) -> str:
    name = call.op.split(".")[1].removesuffix("_")
    weight = _weight(call)
    if not name.startswith("conv") or weight is None:
        return name
    groups = dict(call.operands).get("groups", 1)
    if groups > 1:
        return f"{name} {'depthwise' if weight.shape[1] == 1 else 'grouped'}"
    return f"{name} pointwise" if math.prod(weight.shape[2:]) == 1 else name


def _weight(call: Kernel) -> TensorSpec | None:
    found = dict(call.operands).get("weight")
    return found if isinstance(found, TensorSpec) else None


def _values(
    kernel: Kernel, first: tuple[TensorType, ...], last: tuple[TensorType, ...], counts: Counts
) -> tuple[float, ...]:
    head = kernel.calls[0]
    data = [t for t in head.tensors() if not t.constant]
    weights = [t for call in kernel.calls for t in call.tensors() if t.constant]
    own = _weight(head)
    entry = data[0].shape if data else ()
    taps = math.prod(own.shape[2:]) if own else 1
    made = tuple(d for d in first[0].shape if isinstance(d, int))
    stride = math.prod(entry[2:]) / max(1, math.prod(made[2:])) if taps and len(entry) > 2 else 1.0
    bytes_in = sum(map(_bytes, data))
    bytes_out = sum(_size(t) * t.dtype.itemsize for t in last)
    sizes = (counts.macs, bytes_in, sum(map(_bytes, weights)), bytes_out)
    shape = (taps, _channels(entry), _channels(made), max(stride, 1e-3))
    return (*(math.log1p(size) for size in sizes), *(math.log(max(s, 1e-3)) for s in shape))


def _channels(shape: tuple[int, ...]) -> int:
    """Return the size of the axis that is most likely that of channels."""
    return 1 if not shape else shape[1] if len(shape) > 3 else shape[-1]


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.type.dtype.itemsize


def _size(type_: TensorType) -> int:
    return math.prod(d for d in type_.shape if isinstance(d, int))
