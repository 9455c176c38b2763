"""Graphs in int8 without a runtime's SDK, and the same with weights of few bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.compress.weights import codes_of, weighted
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph
from targets.quantizer import SelectiveQuantizer


def int8(graph: Graph, samples: Sequence[Sequence[torch.Tensor]], names: Sequence[str] = ()) -> Graph:
    """Return the graph with all it can have in int8, or what is named."""
    chosen = frozenset(names) or frozenset(n.name for n in graph.ops())
    return quantize_int8(graph, chosen, SelectiveQuantizer(ir_filter(chosen)), samples)


def few_bits(graph: Graph, bits: int) -> Graph:
    """Return a quantised graph with its weights rounded to fewer bits, at most one of each layer's codes."""
    editor, top = Editor(graph), 2 ** (bits - 1) - 1
    for node in graph.ops():
        codes = codes_of(graph, node) if weighted(graph, node) else None
        if codes is None:
            continue
        peak = codes.codes.flatten(1).abs().amax(1).clamp_min(1)
        step = (peak / top).reshape(-1, *(1,) * (codes.codes.dim() - 1))
        fewer = (codes.codes / step).round().to(codes.codes.dtype)
        source = codes.node
        editor.graph.constants[source.operand("input").node] = Constant(fewer)
        editor.graph.constants[source.operand("scales").node] = Constant(codes.scale * peak / top)
        limits = {"quant_min": -top, "quant_max": top}
        operands = tuple((k, limits.get(k, o)) for k, o in source.operands)
        editor.update(dataclasses.replace(source, operands=operands))
    return editor.finish()


def rounded_weights(graph: Graph, bits: int) -> Graph:
    """Return a float graph with each layer's weights on a symmetric grid, one scale an output channel."""
    from compiler.compress.weight_grid import Grid
    from compiler.compress.weights import renew

    editor = Editor(graph)
    for node in graph.ops():
        weight = graph.constant(node.operand("weight")) if weighted(graph, node) else None
        if weight is not None:
            nearest = Grid(bits).nearest(weight.flatten(1)).reshape(weight.shape)
            renew(editor, node, {"weight": nearest})
    return editor.finish()
