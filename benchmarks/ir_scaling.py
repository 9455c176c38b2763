"""How the cost of the IR grows: build, verify, print, parse, digest, passes and merge.

Prints seconds for graphs of about 1k, 5k and 20k nodes and the growth exponent `a` of
`seconds ~ nodes^a` (least squares on logarithms): 1 is linear.

    python benchmarks/ir_scaling.py [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from compiler.ir.digest import structure_digest
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, TensorType
from compiler.ir.text import parse_graph, print_graph
from compiler.ir.verify import verify
from compiler.merge import merge
from compiler.passes import PIPELINE

SIZES = (1_000, 5_000, 20_000)
CHANNELS = 4
TYPE = TensorType((1, CHANNELS, 8, 8), torch.float32)


def build(nodes: int) -> Graph:
    """Return a chain of three-branch blocks (conv 3x3, conv 1x1, identity, each with BatchNorm; ReLU)."""
    editor = Editor()
    x = editor.input("x", TYPE)
    block = 0
    while len(editor.graph) < nodes:
        origin = f"blocks.{block}"
        branches = [_normed(editor, _conv(editor, x, k, origin), origin) for k in (3, 1)]
        branches.append(_normed(editor, x, origin))
        total = branches[0]
        for branch in branches[1:]:
            total = editor.op("aten.add.Tensor", {"self": total, "other": branch}, (TYPE,), origin=origin)
        x = editor.op("aten.relu.default", {"self": total}, (TYPE,), origin=origin)
        block += 1
    editor.output([x])
    return editor.finish()


def _conv(editor: Editor, x: Any, kernel: int, origin: str) -> Any:
    weight = editor.constant(torch.randn(CHANNELS, CHANNELS, kernel, kernel), "weight", origin)
    operands = {"input": x, "weight": weight, "padding": (kernel // 2,) * 2}
    return editor.op("aten.conv2d.default", operands, (TYPE,), origin=origin)


def _normed(editor: Editor, x: Any, origin: str) -> Any:
    statistics = {
        name: editor.constant(torch.rand(CHANNELS) + 0.5, name, origin)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    rest = {"training": False, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False}
    return editor.op("aten.batch_norm.default", {"input": x, **statistics, **rest}, (TYPE,), origin=origin)


def run_passes(graph: Graph) -> Graph:
    """Run every exact pass."""
    for _, run in PIPELINE:
        graph = run(graph)
    return graph


STEPS: dict[str, Callable[[Graph], Any]] = {
    "verify": verify,
    "print": print_graph,
    "parse": lambda g: parse_graph(print_graph(g)),
    "digest": structure_digest,
    "passes": run_passes,
    "merge": merge,
}


def measure(nodes: int) -> tuple[int, dict[str, float]]:
    """Return (node count, seconds by step)."""
    start = time.perf_counter()
    graph = build(nodes)
    seconds = {"build": time.perf_counter() - start}
    for name, step in STEPS.items():
        graph._order = None  # each step pays for its own ordering
        start = time.perf_counter()
        step(graph)
        seconds[name] = time.perf_counter() - start
    return len(graph), seconds


def exponent(nodes: list[int], seconds: list[float]) -> float:
    """Return the least-squares slope of log seconds over log nodes."""
    xs, ys = [math.log(n) for n in nodes], [math.log(s) for s in seconds]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def main() -> None:
    """Measure all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure(SIZES[0])  # the first call pays for torch's own start
    rows = [measure(size) for size in SIZES]
    nodes = [count for count, _ in rows]
    table = {step: [seconds[step] for _, seconds in rows] for step in rows[0][1]}
    exponents = {step: exponent(nodes, seconds) for step, seconds in table.items()}
    if arguments.json:
        document = {"nodes": nodes, "seconds": table, "exponent": exponents}
        print(json.dumps({"schema": "edgewright.benchmark.ir_scaling/1"} | document))
        return
    print(f"{'seconds at nodes':>18}" + "".join(f"{n:>10}" for n in nodes) + f"{'exponent':>10}")
    for step, seconds in table.items():
        print(f"{step:>18}" + "".join(f"{s:10.3f}" for s in seconds) + f"{exponents[step]:10.2f}")


if __name__ == "__main__":
    main()
