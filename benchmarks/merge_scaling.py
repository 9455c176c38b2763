"""What merging a large graph costs: seconds, and memory beside the weights.

    convolutions   a thousand 3x3 convolutions, each with its BatchNorm
    transformer    pre-norm blocks with LayerNorm affine, until the graph has twenty thousand nodes

Each case runs in a process of its own. Peak memory is the kernel's own high-water mark of the resident set,
reset before the merge; *extra* is what it rises by while the graph that was handed in is still held, so that
the merged weights themselves are in it.

    python benchmarks/merge_scaling.py [CASE ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compiler.ir.constants import constant_bytes
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, TensorType, Value
from compiler.merge import Outcome, merge
from compiler.merge.memory import give_back
from compiler.passes import PIPELINE

CONVOLUTIONS, CHANNELS, SIDE = 1_000, 96, 14
NODES, WIDTH, TOKENS, HEADS = 20_000, 128, 64, 4


def convolutions(count: int = CONVOLUTIONS) -> Graph:
    """Return a chain of convolutions with BatchNorm and ReLU."""
    editor = Editor()
    type_ = TensorType((1, CHANNELS, SIDE, SIDE), torch.float32)
    x = editor.input("x", type_)
    for _ in range(count):
        weight = editor.constant(torch.randn(CHANNELS, CHANNELS, 3, 3) / 30, "weight")
        x = _op(editor, "conv2d.default", type_, input=x, weight=weight, padding=(1, 1))
        named = ("weight", "bias", "running_mean", "running_var")
        statistics = {n: editor.constant(torch.rand(CHANNELS) + 0.5, n) for n in named}
        flags = {"training": False, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False}
        x = _op(editor, "batch_norm.default", type_, input=x, **statistics, **flags)
        x = _op(editor, "relu.default", type_, self=x)
    editor.output([x])
    return editor.finish()


def transformer(nodes: int = NODES) -> Graph:
    """Return pre-norm blocks: attention by heads, and a feed-forward layer four times as wide."""
    editor = Editor()
    type_ = TensorType((1, TOKENS, WIDTH), torch.float32)
    x = editor.input("x", type_)
    while len(editor.graph) < nodes:
        x = _op(editor, "add.Tensor", type_, self=x, other=_attention(editor, _norm(editor, x, type_), type_))
        hidden = _linear(editor, _norm(editor, x, type_), 4 * WIDTH)
        hidden = _op(editor, "gelu.default", editor.graph.type_of(hidden), self=hidden)
        x = _op(editor, "add.Tensor", type_, self=x, other=_linear(editor, hidden, WIDTH))
    editor.output([x])
    return editor.finish()


CASES: dict[str, Callable[..., Graph]] = {"convolutions": convolutions, "transformer": transformer}


def _attention(editor: Editor, x: Value, type_: TensorType) -> Value:
    split = (1, TOKENS, HEADS, WIDTH // HEADS)
    turned = (1, HEADS, TOKENS, WIDTH // HEADS)
    heads = []
    for _ in range(3):
        part = _op(editor, "reshape.default", _like(split), self=_linear(editor, x, WIDTH), shape=split)
        heads.append(_op(editor, "permute.default", _like(turned), self=part, dims=(0, 2, 1, 3)))
    q, k, v = heads
    y = _op(editor, "scaled_dot_product_attention.default", _like(turned), query=q, key=k, value=v)
    y = _op(editor, "permute.default", _like(split), self=y, dims=(0, 2, 1, 3))
    y = _op(editor, "reshape.default", type_, self=y, shape=(1, TOKENS, WIDTH))
    return _linear(editor, y, WIDTH)


def _norm(editor: Editor, x: Value, type_: TensorType) -> Value:
    affine = {name: editor.constant(torch.rand(WIDTH) + 0.5, name) for name in ("weight", "bias")}
    return _op(editor, "layer_norm.default", type_, input=x, normalized_shape=(WIDTH,), **affine)


def _linear(editor: Editor, x: Value, width: int) -> Value:
    inner = editor.graph.type_of(x).shape[-1]
    weight = editor.constant(torch.randn(width, int(inner)) / 11, "weight")  # type: ignore[arg-type]  # static
    bias = editor.constant(torch.randn(width), "bias")
    return _op(editor, "linear.default", _like((1, TOKENS, width)), input=x, weight=weight, bias=bias)


def _like(shape: tuple[int, ...]) -> TensorType:
    return TensorType(shape, torch.float32)


def _op(editor: Editor, op: str, type_: TensorType, **operands: Any) -> Value:
    return editor.op(f"aten.{op}", operands, (type_,))


def measure(name: str) -> dict[str, Any]:
    """Merge one graph in this process and return what it took."""
    torch.set_num_threads(1)
    for case in CASES.values():
        merge(case(2))  # the first call pays for torch's own start
    graph = CASES[name]()
    for _, run in PIPELINE:
        graph = run(graph)
    gc.collect()
    give_back()  # what building the graph has freed is no memory that the merge saves
    weights, before = constant_bytes([graph]), _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    start = time.perf_counter()
    merged, attempts = merge(graph)
    seconds = time.perf_counter() - start
    extra = _resident("VmHWM") - before
    return {
        "case": name,
        "nodes": len(graph),
        "nodes_merged": len(merged),
        "regions_merged": sum(a.outcome is Outcome.MERGED for a in attempts),
        "weights_bytes": weights,
        "seconds": seconds,
        "peak_extra_bytes": extra,
        "extra_over_weights": extra / weights,
    }


def _resident(key: str) -> int:
    """Return a figure of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Run each case in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help="measure one case in this process, print JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if arguments.here:
        print(json.dumps(measure(arguments.cases[0])))
        return
    rows = []
    for name in arguments.cases or CASES:
        command = [sys.executable, __file__, name, "--here"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.json:
        document = {"schema": "edgewright.benchmark.merge_scaling/1", "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1))
    print("| case | nodes | merged regions | weights MB | seconds | peak extra MB | extra ÷ weights |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        megabytes = r["weights_bytes"] / 1e6, r["peak_extra_bytes"] / 1e6
        print(
            f"| {r['case']} | {r['nodes']} | {r['regions_merged']} | {megabytes[0]:.1f} | {r['seconds']:.1f} "
            f"| {megabytes[1]:.1f} | {r['extra_over_weights']:.2f} |"
        )


if __name__ == "__main__":
    main()
