"""Published operator latencies of three phones as kernels: `benchmarks/data/mobile_gpu_operators.csv`.

A row says sizes, not the call: padding is the least that gives the output's size, and the sizes that a
concatenation's other inputs share are spread evenly. Kernels are the same for every device.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compiler.cost.kernel import Kernel, TensorSpec, kernel_call

FILE = Path(__file__).parents[1] / "data" / "mobile_gpu_operators.csv"
RELATIVES = {"resn": "resnet", "mobilenet": "mobilenet"}
DEVICES = ("pixel4", "a03s", "iphonexs")


@dataclass(frozen=True)
class Published:
    """One operator of one network, with its microseconds by device."""

    network: str
    kernel: Kernel
    us: dict[str, float]

    @property
    def family(self) -> str:
        """The network's family."""
        return family(self.network)


def family(network: str) -> str:
    """Return a network's family: all residual networks are one, and all that call themselves MobileNets."""
    name = "".join(c for c in network.split("_")[0] if not c.isdigit())
    return next((own for part, own in RELATIVES.items() if part in name), name)


def published() -> list[Published]:
    """Return all rows."""
    with FILE.open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [Published(r["model"], _kernel(r), {d: float(r[d]) for d in DEVICES}) for r in rows]


def folds(rows: list[Published], count: int) -> Iterator[tuple[list[Published], list[Published]]]:
    """Yield rows to learn from and rows to judge by, no family in both."""
    families = sorted({row.family for row in rows})
    for fold in range(count):
        held = set(families[fold::count])
        yield [r for r in rows if r.family not in held], [r for r in rows if r.family in held]


def _kernel(row: dict[str, str]) -> Kernel:
    operation, channels = row["operation"], int(row["in_channels"])
    if operation == "FULLY_CONNECTED":
        out = int(row["out_channels"])
        return _call("linear.default", input=_x(1, channels), weight=_w(out, channels), bias=_w(out))
    size = int(row["in_size"])
    image = _x(1, channels, size, size)
    if operation == "MEAN":
        return _call("mean.dim", self=image, dim=[2, 3])
    if operation == "CONCATENATION":
        return _call("cat.default", tensors=_joined(row, channels, size), dim=1)
    taps, stride = int(row["kernel"]), int(row["stride"])
    padding = max(0, math.ceil(((int(row["out_size"]) - 1) * stride + taps - size) / 2))
    if "POOL" in operation:
        name = "max_pool2d_with_indices.default" if "MAX" in operation else "avg_pool2d.default"
        half = [min(padding, taps // 2)] * 2
        return _call(name, self=image, kernel_size=[taps] * 2, stride=[stride] * 2, padding=half)
    depthwise = operation.startswith("DEPTHWISE")
    out = channels if depthwise else int(row["out_channels"])
    groups = channels if depthwise else int(row["groups"])
    return _call(
        "conv2d.default",
        input=image,
        weight=_w(out, channels // groups, taps, taps),
        bias=_w(out),
        stride=[stride] * 2,
        padding=[padding] * 2,
        groups=groups,
    )


def _joined(row: dict[str, str], first: int, size: int) -> list[TensorSpec]:
    count, rest = int(row["kernel"]), int(row["out_channels"]) - first
    share = rest // max(1, count - 1)
    sizes = [first, *[share] * (count - 2), rest - share * (count - 2)] if count > 1 else [first]
    return [_x(1, channels, size, size) for channels in sizes]


def _call(name: str, **operands: object) -> Kernel:
    return kernel_call(f"aten.{name}", operands)


def _x(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32", False)


def _w(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32", True)
