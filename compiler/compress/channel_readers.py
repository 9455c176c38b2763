"""The layers that sum over the channels of a group: their inputs, their columns, and a run that sees both.

What a channel is worth is what its readers make of it, so that every criterion looks at the same place:
the input of a layer with stored weights, channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from compiler.compress.channel_axes import Atoms
from compiler.compress.channel_groups import Channels, Group
from compiler.compress.channel_walk import Reader
from compiler.evaluate import run_node, widen
from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Kind, Value

Gate: TypeAlias = Callable[[Reader, torch.Tensor], torch.Tensor]


def channel_dim(graph: Graph, reader: Reader) -> int:
    """Return the dimension of the reader's input that holds its channels."""
    node = graph.node(reader.node)
    rank, weight = (graph.type_of(node.operand(k)).rank for k in ("input", "weight"))
    return rank - max(weight - 1, 1)


def units_read(graph: Graph, channels: Channels, reader: Reader) -> Atoms:
    """Return the unit of each channel a reader sums over."""
    source, dim = graph.node(reader.node).operand("input"), channel_dim(graph, reader)
    return next(axis.atoms for axis in channels.axes[source] if axis.dims == (dim,))


def columns(graph: Graph, reader: Reader) -> torch.Tensor:
    """Return the weights that multiply each channel, [channels, rest], in float64."""
    weight = graph.constant(graph.node(reader.node).operand("weight"))
    assert weight is not None
    parts = [part.transpose(0, reader.dim).flatten(1) for part in weight.double().chunk(reader.groups, 0)]
    return torch.cat(parts)


def readers_of(groups: Iterable[Group]) -> tuple[Reader, ...]:
    """Return the readers of some groups, each once."""
    return tuple(dict.fromkeys(reader for group in groups for reader in group.readers))


def by_unit(
    graph: Graph, channels: Channels, values: Mapping[Reader, torch.Tensor]
) -> dict[Reader, torch.Tensor]:
    """Return what the channels of each reader [..., channels] add up to for each unit [..., units]."""
    result = {}
    for reader, value in values.items():
        index = torch.from_numpy(units_read(graph, channels, reader))
        empty = value.new_zeros(*value.shape[:-1], channels.count)
        result[reader] = empty.index_add(-1, index, value)
    return result


def aligned(vector: torch.Tensor, like: torch.Tensor, dim: int) -> torch.Tensor:
    """Return [channels], or [rows, channels] with rows the first dimension, shaped to multiply `like`."""
    shape = [1] * like.dim()
    shape[dim] = vector.shape[-1]
    if vector.dim() == 2:
        shape[0] = vector.shape[0]
    return vector.reshape(shape)


def run_gated(graph: Graph, call: Sequence[torch.Tensor], readers: Sequence[Reader], gate: Gate) -> list[Any]:
    """Return the results in float64 where each reader reads `gate(reader, input)`; gradients are kept."""
    gated = {reader.node: reader for reader in readers}
    values: dict[Value, Any] = start(graph, call)
    bindings = bind([n.type for n in graph.inputs()], [t.shape for t in call])
    unread = {n.name: graph.nx.out_degree(n.name) for n in graph.nodes()}
    for node in graph.ops():
        reader = gated.get(node.name)
        if reader is None:
            run_node(node, values, bindings, torch.float64)
        else:
            source: Value = node.operand("input")
            seen = values[source]
            values[source] = gate(reader, seen)
            run_node(node, values, bindings, torch.float64)
            values[source] = seen
        for _, value in node.values():
            unread[value.node] -= 1
            if unread[value.node] == 0:
                values.pop(value, None)
    return [resolve_operand(operand, values, bindings) for _, operand in graph.output.operands]


def start(graph: Graph, call: Sequence[torch.Tensor]) -> dict[Value, Any]:
    """Return the inputs, weights and states that a run in float64 begins with."""
    values: dict[Value, Any] = {
        n.value: widen(t, torch.float64) for n, t in zip(graph.inputs(), call, strict=True)
    }
    for node in graph.nodes():
        if node.kind in (Kind.CONSTANT, Kind.STATE):
            stored = graph.constants[node.name].tensor
            assert stored is not None, f"constant {node.name!r} has no data"
            values[node.value] = widen(stored.detach(), torch.float64)
    return values


def logits(results: Sequence[Any]) -> torch.Tensor:
    """Return the first floating result with its classes last, which a map has second."""
    found = next(r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point())
    return found.movedim(1, -1) if found.dim() == 4 else found
