r"""BatchNorm statistics gathered again after weights were changed other than by training.

For a module, as its training would: one forward in which BatchNorms alone are in train mode, each
statistic the plain mean of the batches' own,

    :math:`\mu = \frac1K \sum_k \mu_k, \qquad \sigma^2 = \frac1K \sum_k \frac{m}{m-1} \sigma_k^2`

(torch's cumulative average, `momentum=None`). Batches count equally, so they should be of one size.
Source: Izmailov et al., arXiv 1803.05407, which calls it a batch-norm update.

For a graph, whose batch size is fixed and may be 1, the variance inside a batch would miss the one
between batches. There the samples of all batches are pooled, one BatchNorm after the other, each
behind the new statistics of those before it: what eval mode will see.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compiler.errors import UsageError
from compiler.evaluate import run_node, widen
from compiler.ir.dims import bind
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.verify import verify

BATCH_NORM = "aten.batch_norm.default"


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorms of a module that keep running statistics, by their path."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


def reestimate(module: nn.Module, batches: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """Gather the running statistics of a module again, in place, and return the layers it did so for.

    `batches` hold the module's positional arguments. The module ends in eval mode. A BatchNorm that
    no batch reaches keeps its statistics and is not among those returned.

    Raises UsageError without batches, and where a batch holds one value a channel, which has no variance.
    """
    norms = batch_norms(module)
    if norms and not batches:
        raise UsageError(
            f"the statistics of {len(norms)} BatchNorms must be gathered again, which needs batches"
        )
    before = {name: _statistics(norm) for name, norm in norms.items()}
    with _gathering(module, norms.values()):
        for index, batch in enumerate(batches):
            _forward(module, batch, index)
    reached = [name for name, norm in norms.items() if norm.num_batches_tracked]
    for name in norms.keys() - set(reached):
        for buffer, value in zip(_statistics(norms[name], copy=False), before[name], strict=True):
            buffer.copy_(value)
    return tuple(reached)


def _forward(module: nn.Module, batch: Sequence[Any], index: int) -> None:
    try:
        module(*batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            f"batch {index + 1} gives a BatchNorm one value a channel, which has no variance: put more "
            "samples in a batch"
        ) from error


def _statistics(norm: _BatchNorm, copy: bool = True) -> list[torch.Tensor]:
    found = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    return [t.clone() if copy else t for t in found if t is not None]


@contextlib.contextmanager
def _gathering(module: nn.Module, norms: Collection[_BatchNorm]) -> Iterator[None]:
    """Put the BatchNorms alone in train mode, empty and cumulative; all of the module in eval after."""
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()


@torch.no_grad()
def reestimate_graph(
    graph: Graph, names: Collection[str], batches: Sequence[Sequence[torch.Tensor]]
) -> Graph:
    """Return the graph with the statistics of the named BatchNorms gathered again, in float64.

    `batches` hold flat inputs in `graph.inputs()` order; all are held at once. A BatchNorm used twice
    gets statistics of its own at each place.

    Raises UsageError where the batches together hold one value a channel.
    """
    if not any(graph.node(name).op == BATCH_NORM for name in names):
        return graph
    editor = Editor(graph)
    runs = [_start(graph, batch) for batch in batches]
    bindings = [bind([n.type for n in graph.inputs()], [t.shape for t in batch]) for batch in batches]
    unread = {n.name: graph.nx.out_degree(n.name) for n in graph.nodes()}
    for node in graph.ops():
        renewed = _renewed(editor, node, runs) if node.name in names and node.op == BATCH_NORM else node
        for values, binding in zip(runs, bindings, strict=True):
            run_node(renewed, values, binding, torch.float64)
        _release(node, runs, unread)
    result = editor.finish()
    verify(result)
    return result


def _start(graph: Graph, batch: Sequence[torch.Tensor]) -> dict[Value, Any]:
    values = {n.value: widen(t, torch.float64) for n, t in zip(graph.inputs(), batch, strict=True)}
    for name, constant in graph.constants.items():
        assert constant.tensor is not None, f"constant {name!r} has no data"
        values[Value(name)] = widen(constant.tensor, torch.float64)
    return values


def _renewed(editor: Editor, node: Node, runs: Sequence[dict[Value, Any]]) -> Node:
    """Return a BatchNorm that reads the statistics of its own input over all runs."""
    changed = node
    for key, new in _pooled([values[node.operand("input")] for values in runs], node).items():
        old = node.operand(key)
        stored = editor.graph.constants[old.node].tensor
        assert stored is not None
        tensor = new.to(stored.dtype)
        origin = editor.graph.node(old.node).origin
        value = editor.constant(tensor, f"{old.node}_again", origin, before=node.name)
        operands = tuple((k, value if k == key else o) for k, o in changed.operands)
        changed = dataclasses.replace(changed, operands=operands)
        for values in runs:
            values[value] = widen(tensor, torch.float64)
    editor.update(changed)
    editor.remove_unread([node.operand(key).node for key in ("running_mean", "running_var")])
    return changed


def _pooled(inputs: Sequence[torch.Tensor], node: Node) -> Mapping[str, torch.Tensor]:
    """Return mean and unbiased variance of each channel over all inputs."""
    columns = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)
    if columns.shape[1] < 2:
        raise UsageError(
            f"the batches give BatchNorm {node.name!r} one value a channel, which has no variance: give more"
        )
    return {"running_mean": columns.mean(1), "running_var": columns.var(1)}


def _release(node: Node, runs: Sequence[dict[Value, Any]], unread: dict[str, int]) -> None:
    for _, value in node.values():
        unread[value.node] -= 1
        if unread[value.node] == 0:
            for values in runs:
                values.pop(value, None)
