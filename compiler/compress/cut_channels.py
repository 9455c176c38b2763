r"""Channels taken out of a graph, everywhere at once.

With k the units that are kept, every weight and every value loses the positions of the others along the
one dimension on which they differ, and literals that count channels are written again: shapes, groups,
normalised shapes, splits and ranges.
What a cut channel gave to a sum is gone, as if its weights there were zero:

    cut(graph, k) == scaled(graph, k as 0 and 1)        except behind a norm over channels

A LayerNorm normalises what is left. No operation is added or renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from compiler.compress.channel_axes import Axis
from compiler.compress.channel_groups import Channels
from compiler.compress.channel_walk import Reader
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph, Kind, Node, Operand, TensorType, Value
from compiler.ir.schema import normalize
from compiler.ir.verify import verify

_EQUAL_PARTS = ("aten.split.Tensor", "aten.chunk.default")
Mask: TypeAlias = npt.NDArray[np.bool_]
_Literals: TypeAlias = dict[str, Operand]


def cut(graph: Graph, channels: Channels, kept: Mask) -> Graph:
    """Return the graph with the units alone for which `kept` is true; with all of them, the same graph."""
    editor = Editor(graph)
    for node in graph.nodes():
        places = [left(channels.axes.get(Value(node.name, i), ()), kept) for i in range(len(node.types))]
        if node.kind is Kind.CONSTANT and any(places):
            set_tensor(editor, node.name, _picked(graph, node, places[0]))
        elif node.kind is Kind.OP:
            types = tuple(_narrow(t, p) for t, p in zip(node.types, places, strict=True))
            changed = replace(
                node, types=types, operands=_operands(editor.graph, node, types, channels, kept)
            )
            if node.op in _EQUAL_PARTS and types != node.types:
                changed = _unequal(changed)
            if changed != node:
                editor.update(changed)
    result = editor.finish()
    verify(result)
    return result


def scaled(graph: Graph, readers: Mapping[Reader, torch.Tensor]) -> Graph:
    """Return the graph with the columns of each reader's weight multiplied by a factor for each channel.

    Readers that share a weight read the same units, so that it is scaled once.
    """
    editor = Editor(graph)
    done: set[str] = set()
    for reader, factors in readers.items():
        name = graph.node(reader.node).operand("weight").node
        if name in done:
            continue
        done.add(name)
        weight = editor.graph.constants[name].tensor
        assert weight is not None
        shape = [1] * weight.dim()
        shape[reader.dim] = -1
        groups = factors.reshape(reader.groups, -1).to(weight.dtype)
        parts = weight.chunk(reader.groups, 0)
        scaled_parts = [w * f.reshape(shape) for w, f in zip(parts, groups, strict=True)]
        set_tensor(editor, name, torch.cat(scaled_parts) if reader.groups > 1 else scaled_parts[0])
    return editor.finish()


def set_tensor(editor: Editor, name: str, tensor: torch.Tensor) -> None:
    """Put another tensor in the place of a constant, under its name."""
    editor.graph.constants[name] = Constant(tensor)
    node = editor.graph.node(name)
    editor.update(replace(node, types=(TensorType(tuple(tensor.shape), tensor.dtype),)))


def left(axes: Iterable[Axis], kept: Mask) -> dict[int, npt.NDArray[np.int64]]:
    """Return dimension -> the positions that stay, for dimensions that lose some."""
    found = {}
    for axis in axes:
        mask = kept[axis.atoms]
        if mask.all():
            continue
        places = [i for i in range(mask.ndim) if not (mask == np.take(mask, [0], axis=i)).all()]
        assert len(places) == 1, f"units that differ along {places} of an axis at {axis.dims}"
        line = mask[tuple(slice(None) if i == places[0] else 0 for i in range(mask.ndim))]
        found[axis.dims[places[0]]] = np.flatnonzero(line)
    return found


def _picked(graph: Graph, node: Node, positions: Mapping[int, npt.NDArray[np.int64]]) -> torch.Tensor:
    tensor = graph.constants[node.name].tensor
    assert tensor is not None, f"constant {node.name!r} has no data"
    for dim, own in positions.items():
        tensor = tensor.index_select(dim, torch.from_numpy(own))
    return tensor.contiguous()


def _narrow(type_: TensorType, positions: Mapping[int, npt.NDArray[np.int64]]) -> TensorType:
    shape = tuple(len(positions[i]) if i in positions else d for i, d in enumerate(type_.shape))
    return TensorType(shape, type_.dtype)


def _unequal(node: Node) -> Node:
    """Return a split into equal parts as one into parts of the sizes that its results have."""
    op, dim = "aten.split_with_sizes.default", node.operand("dim")
    sizes = tuple(t.shape[dim % t.rank] for t in node.types)
    operands = {"self": node.operand("self"), "split_sizes": sizes, "dim": dim}
    return replace(node, op=op, operands=normalize(op, (), operands))


def _operands(
    graph: Graph, node: Node, types: tuple[TensorType, ...], channels: Channels, kept: Mask
) -> tuple[tuple[str, Operand], ...]:
    """Return a node's operands with the literals that count channels; `graph` is cut up to this node."""
    rule = _LITERALS.get(node.op.split(".")[1])
    literals = rule(graph, node, types, channels, kept) if rule else {}
    return tuple((key, literals.get(key, operand)) for key, operand in node.operands)


_Rule: TypeAlias = Callable[[Graph, Node, tuple[TensorType, ...], Channels, Mask], _Literals]


def _shape(name: str) -> _Rule:
    def rule(graph: Graph, node: Node, types: tuple[TensorType, ...], *_: object) -> _Literals:
        pairs = zip(node.operand(name), node.type.shape, types[0].shape, strict=True)
        return {name: tuple(new if new != old and own != -1 else own for own, old, new in pairs)}

    return rule


def _depthwise(graph: Graph, node: Node, *_: object) -> _Literals:
    weight, source = (graph.type_of(node.operand(k)).shape for k in ("weight", "input"))
    groups = node.operand("groups")
    alone = weight[1] == 1 and groups > 1 and isinstance(source[-len(weight) + 1], int)
    return {"groups": source[-len(weight) + 1] if alone else groups}


def _normalized(graph: Graph, node: Node, *_: object) -> _Literals:
    own = node.operand("normalized_shape")
    return {"normalized_shape": (*own[:-1], graph.type_of(node.operand("input")).shape[-1])}


def _group_norm(graph: Graph, node: Node, types: tuple[TensorType, ...], *_: object) -> _Literals:
    alone = node.operand("num_groups") == node.type.shape[1]
    return {"num_groups": types[0].shape[1] if alone else node.operand("num_groups")}


def _sizes(graph: Graph, node: Node, types: tuple[TensorType, ...], *_: object) -> _Literals:
    dim = node.operand("dim") % node.types[0].rank
    return {"split_sizes": tuple(t.shape[dim] for t in types)}


def _range(
    graph: Graph, node: Node, types: tuple[TensorType, ...], channels: Channels, kept: Mask
) -> _Literals:
    source, dim = node.operand("self"), node.operand("dim") % node.type.rank
    positions = left(channels.axes.get(source, ()), kept).get(dim)
    if positions is None:
        return {}
    start = node.operand("start") or 0
    size = _length(channels, source, dim)
    start = max(start + size, 0) if start < 0 else min(start, size)
    first = int(np.searchsorted(positions, start))
    return {"start": first, "end": first + int(str(types[0].shape[dim]))}


def _length(channels: Channels, value: Value, dim: int) -> int:
    axis = next(a for a in channels.axes[value] if dim in a.dims)
    return int(axis.atoms.shape[axis.dims.index(dim)])


_LITERALS: dict[str, _Rule] = {
    "reshape": _shape("shape"),
    "view": _shape("size"),
    "_unsafe_view": _shape("size"),
    "expand": _shape("size"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _depthwise),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _depthwise),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized),
    "group_norm": _group_norm,
    "split_with_sizes": _sizes,
    "slice": _range,
}
