"""Makes kernels of a finished LiteRT file quantize what they read, where the graph has a weight in int8.

LiteRT's convolutions and linears do so where their weight is int8 and their input is float. The
converter's own dynamic mode makes every one of a file so, whatever its graph says; here the weights
of the graph's dynamic operations are given to it in float and their int8 codes are written over them
in the file. A weight is found by its content, in the order of channels that the file has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from compiler.compress.quantize_dynamic import is_dynamic
from compiler.errors import UnsupportedModelError
from compiler.ir.graph import Graph
from targets.litert.delegation import IDENTIFIER

KINDS = (3, 9)  # CONV_2D and FULLY_CONNECTED in the schema of the file
FLOAT32, INT8 = 0, 9  # its types


@dataclass(frozen=True)
class Codes:
    """A weight as the file stores it: bytes of int8, output channels first, and a scale for each."""

    codes: bytes
    scales: list[float]


def dynamic_weights(graph: Graph) -> dict[bytes, Codes]:
    """Return the weights of a graph's dynamic operations by their float content in the file's order."""
    found: dict[bytes, Codes] = {}
    for node in graph.ops():
        if is_dynamic(graph, node):
            stored = graph.producer(dict(node.values())["weight"])
            codes, scales = (graph.constant(stored.operand(key)) for key in ("input", "scales"))
            if codes is None or scales is None:
                continue
            scale = scales.float()
            floats = codes.float() * scale.reshape(-1, *(1,) * (codes.ndim - 1))
            found[_bytes(floats)] = Codes(_bytes(codes), [float(s) for s in scale])
    return found


def with_codes(model: bytes, weights: Mapping[bytes, Codes]) -> bytes:
    """Return the file with these weights of its convolutions and linears in int8.

    Raises UnsupportedModelError where the converter has folded or turned one, so that it is not found.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    places: dict[bytes, int] = {}
    for subgraph in tree.subgraphs:
        for op in subgraph.operators or ():
            if tree.operatorCodes[op.opcodeIndex].builtinCode in KINDS:
                tensor = subgraph.tensors[op.inputs[1]]
                data = tree.buffers[tensor.buffer].data
                key = b"" if data is None else bytes(data)
                if tensor.type == FLOAT32 and key in weights:
                    places.setdefault(key, len(tree.buffers))
                    _store(tree, tensor, weights[key], places[key], schema)
    if missing := len(weights) - len(places):
        raise UnsupportedModelError(f"{missing} of {len(weights)} int8 weights are not in the converted file")
    _drop_unread(tree)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _store(tree: Any, tensor: Any, weight: Codes, place: int, schema: Any) -> None:
    """Give a tensor its scales, and its codes in the buffer at `place`, which all its readers share."""
    if place == len(tree.buffers):
        buffer = schema.BufferT()
        buffer.data = numpy.frombuffer(weight.codes, numpy.uint8)
        tree.buffers.append(buffer)
    scales = schema.QuantizationParametersT()
    scales.scale = weight.scales
    scales.zeroPoint, scales.quantizedDimension = [0] * len(weight.scales), 0
    tensor.type, tensor.buffer, tensor.quantization = INT8, place, scales


def _drop_unread(tree: Any) -> None:
    """Empty the buffers that no tensor has any more."""
    read = {tensor.buffer for subgraph in tree.subgraphs for tensor in subgraph.tensors}
    read |= {entry.buffer for entry in tree.metadata or ()}
    for index, buffer in enumerate(tree.buffers):
        if index not in read:
            buffer.data = None


def _bytes(weight: torch.Tensor) -> bytes:
    """Return the content of a weight, its input channels last."""
    last = weight.movedim(1, -1) if weight.ndim > 2 else weight
    return bytes(last.contiguous().numpy().tobytes())
