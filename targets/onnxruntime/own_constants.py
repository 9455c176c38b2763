"""Gives each reader of integer constants in an ONNX file a dequantize and constants of its own.

The exporter stores equal constants once, and reads a weight that two layers share back once. Where the
runtime turns signed weights into unsigned ones (x86 without VNNI), it renames each weight and each
zero point for its reader, and fails at the second reader of one: ONNX Runtime 1.32, "Attempt to replace
the existing tensor".
"""

from __future__ import annotations

from typing import Any

DEQUANTIZE = "DequantizeLinear"
PLACES = {DEQUANTIZE: (0, 2), "DynamicQuantizeMatMul": (1, 3)}  # of codes and zero points


def with_own_constants(model: bytes) -> bytes:
    """Return an equal model in which each integer constant has one reader; the same where none is."""
    import onnx

    made = onnx.load_from_string(model)
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    if not any(_places(node, stored) for node in made.graph.node):
        return model
    nodes = _a_dequantize_a_reader(list(made.graph.node), stored)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    taken: set[str] = set()
    for node in made.graph.node:
        for index in _places(node, stored):
            name = node.input[index]
            if name in taken:
                copy = made.graph.initializer.add()
                copy.CopyFrom(stored[name])
                node.input[index] = copy.name = f"{name}_of_{node.name}"
            taken.add(name)
    return bytes(made.SerializeToString())


def _places(node: Any, stored: dict[str, Any]) -> list[int]:
    """Return which inputs of a node are integer constants that the runtime may turn into unsigned ones."""
    return [i for i in PLACES.get(node.op_type, ()) if i < len(node.input) and node.input[i] in stored]


def _of_constant(node: Any, stored: dict[str, Any]) -> bool:
    return node.op_type == DEQUANTIZE and node.input[0] in stored


def _a_dequantize_a_reader(nodes: list[Any], stored: dict[str, Any]) -> list[Any]:
    """Return the nodes with a copy of a constant's dequantize in front of each further reader."""
    makers = {node.output[0]: node for node in nodes if _of_constant(node, stored)}
    made, read = [], set[str]()
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in read:
                copy = type(node)()
                copy.CopyFrom(makers[name])
                copy.name = f"{makers[name].name}_of_{node.name}_{index}"
                node.input[index] = copy.output[0] = f"{name}_of_{node.name}_{index}"
                made.append(copy)
            elif name in makers:
                read.add(name)
        made.append(node)
    return made
