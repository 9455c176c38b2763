"""Run a graph with torch: the reference every merge and every runtime is judged against.

The numerics are torch's own operators, never ours. With `dtype=torch.float64` all floating weights,
inputs and dtype operands are widened, so that the result is a reference for float32 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from compiler.ir.dims import bind, resolve_operand
from compiler.ir.graph import Graph, Kind, Node, Operand, Value
from compiler.ir.schema import overload

_WIDENED = (torch.float16, torch.bfloat16, torch.float32)


def evaluate(graph: Graph, inputs: Sequence[torch.Tensor], dtype: torch.dtype | None = None) -> list[Any]:
    """Return the graph's flat results for flat inputs in `graph.inputs()` order.

    `dtype` is None (as stored) or torch.float64. States start from their stored value; their
    writes are dropped (use `evaluate_with_state` to see them).
    """
    return evaluate_with_state(graph, inputs, dtype)[0]


@torch.no_grad()
def evaluate_with_state(
    graph: Graph, inputs: Sequence[torch.Tensor], dtype: torch.dtype | None = None
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Return (flat results, state name -> value written)."""
    values: dict[Value, Any] = {}
    types = [n.type for n in graph.inputs()]
    if len(types) != len(inputs):
        raise ValueError(f"the graph takes {len(types)} inputs, got {len(inputs)}")
    bindings = bind(types, [t.shape for t in inputs])
    for node, tensor in zip(graph.inputs(), inputs, strict=True):
        values[node.value] = widen(tensor, dtype)
    for node in graph.nodes():
        if node.kind in (Kind.CONSTANT, Kind.STATE):
            stored = graph.constants[node.name].tensor
            assert stored is not None, f"constant {node.name!r} has no data"
            values[node.value] = widen(stored, dtype)
    remaining = {n.name: graph.nx.out_degree(n.name) for n in graph.nodes()}
    for node in graph.nodes():
        if node.kind is Kind.OP:
            run_node(node, values, bindings, dtype)
            _release(node, values, remaining)
    results = [resolve_operand(operand, values, bindings) for _, operand in graph.output.operands]
    writes = {n.operand("state").node: values[n.operand("value")] for n in graph.writes()}
    return results, writes


def run_node(
    node: Node, values: dict[Value, Any], bindings: Mapping[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Call one operation on `values` and put its outputs there."""
    call: Callable[..., Any] = overload(node.op)
    arguments = {
        key: _typed(resolve_operand(operand, values, bindings), dtype) for key, operand in node.operands
    }
    positional = [arguments.pop(a.name) for a in overload(node.op)._schema.arguments if not a.kwarg_only]
    result = call(*positional, **arguments)
    outputs = result if isinstance(result, tuple | list) else (result,)
    for index, output in enumerate(outputs):
        values[Value(node.name, index)] = output


def widen(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Return a floating tensor in the wider dtype; others as they are."""
    return tensor.to(dtype) if dtype is not None and tensor.dtype in _WIDENED else tensor


def _typed(operand: Operand, dtype: torch.dtype | None) -> Operand:
    return (
        dtype if dtype is not None and isinstance(operand, torch.dtype) and operand in _WIDENED else operand
    )


def _release(node: Node, values: dict[Value, Any], remaining: dict[str, int]) -> None:
    for _, value in node.values():
        remaining[value.node] -= 1
        if remaining[value.node] == 0:
            values.pop(value, None)
