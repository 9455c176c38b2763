"""Makes kernels of a finished LiteRT file quantize what they read, where the graph has integer weights.

LiteRT's convolutions and linears do so where their weight is int8 and their input is float. The
converter's own dynamic mode makes every one of a file so, whatever its graph says; here the weights
of the graph's dynamic operations are given to it in float and their int8 codes are written over them
in the file. A weight is found by its content, in the order of channels that the file has. int4 weights
stand two in a byte, the first one low, their scales in a tensor [out, groups] of float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from compiler.compress.quantize_dynamic import is_dynamic
from compiler.compress.quantize_int4 import DEQUANTIZE as GROUPED
from compiler.errors import UnsupportedModelError
from compiler.ir.graph import Graph
from targets.litert.delegation import IDENTIFIER

KINDS = (3, 9)  # CONV_2D and FULLY_CONNECTED in the schema of the file
FLOAT32, FLOAT16, INT8, INT4 = 0, 1, 9, 17  # its types


@dataclass(frozen=True)
class Codes:
    """A weight as the file stores it: bytes of int8, output channels first, and a scale for each.

    With a `group`, bytes of two int4 each, and a scale for that many inputs of each row.
    """

    codes: bytes
    scales: torch.Tensor
    group: int = 0


def dynamic_weights(graph: Graph) -> dict[bytes, Codes]:
    """Return the weights of a graph's dynamic operations by their float content in the file's order."""
    found: dict[bytes, Codes] = {}
    for node in graph.ops():
        if is_dynamic(graph, node):
            stored = graph.producer(dict(node.values())["weight"])
            codes, scales = (graph.constant(stored.operand(key)) for key in ("input", "scales"))
            if codes is None or scales is None:
                continue
            if stored.op == GROUPED:
                group = stored.operand("group_size")
                floats = codes.float() * scales.repeat_interleave(group, 1)
                found[_bytes(floats)] = Codes(_pairs(codes), scales, group)
                continue
            floats = codes.float() * scales.float().reshape(-1, *(1,) * (codes.ndim - 1))
            found[_bytes(floats)] = Codes(_bytes(codes), scales.float())
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
                    _store(tree, subgraph, tensor, weights[key], places[key], schema)
    if missing := len(weights) - len(places):
        raise UnsupportedModelError(
            f"{missing} of {len(weights)} integer weights are not in the converted file"
        )
    _drop_unread(tree)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _store(tree: Any, subgraph: Any, tensor: Any, weight: Codes, place: int, schema: Any) -> None:
    """Give a tensor its scales, and its codes in the buffer at `place`, which all its readers share."""
    if place == len(tree.buffers):
        _buffer(tree, weight.codes, schema)
    scales = schema.QuantizationParametersT()
    scales.quantizedDimension = 0
    if weight.group:
        scales.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        scales.details = schema.BlockwiseQuantizationT()
        scales.details.scales = _scales(tree, subgraph, tensor.name, weight.scales, schema)
        scales.details.zeroPoints, scales.details.blockSize = -1, weight.group
    else:
        scales.scale = [float(s) for s in weight.scales]
        scales.zeroPoint = [0] * len(weight.scales)
    tensor.type, tensor.buffer, tensor.quantization = INT4 if weight.group else INT8, place, scales


def _scales(tree: Any, subgraph: Any, name: bytes, scales: torch.Tensor, schema: Any) -> int:
    """Add a tensor of scales; return its index."""
    added = schema.TensorT()
    added.name, added.type, added.shape = name + b"_scales", FLOAT16, list(scales.shape)
    added.buffer = len(tree.buffers)
    _buffer(tree, _bytes(scales.half()), schema)
    subgraph.tensors.append(added)
    return len(subgraph.tensors) - 1


def _buffer(tree: Any, content: bytes, schema: Any) -> None:
    buffer = schema.BufferT()
    buffer.data = numpy.frombuffer(content, numpy.uint8)
    tree.buffers.append(buffer)


def _pairs(codes: torch.Tensor) -> bytes:
    """Return codes of four bits two in a byte, the first one low."""
    low, high = codes.flatten()[::2], codes.flatten()[1::2]
    return bytes(((low & 15) | (high << 4)).contiguous().numpy().tobytes())


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
