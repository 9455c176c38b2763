r"""Least-squares refit of the layers that lost inputs, one after the other.

The cut graph and the dense one run side by side on the same samples. At each reader of a cut group the
cut inputs X are known, and what the dense layer gave, Y; the weights move by the least squares solution
for what is missing,

    :math:`(\Delta, c) = \arg\min \|X \Delta^\top + c - (Y - X W^\top - b)\|^2 + \lambda \|(\Delta, c)\|^2`

and the layers behind it see the result. Damping the change and not the weights means that the error on
the rows fitted is never above what it was, and that nothing changes where nothing was lost. In groups,
each group is fitted apart. Rows are positions, evenly spaced where there are more than are needed.

Values are computed in the graph's own precision, fits in float64. What the cut has not reached is computed
once for both graphs, and what no reader waits for not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from compiler.compress.channel_groups import Channels
from compiler.compress.channel_readers import channel_dim
from compiler.compress.channel_walk import Reader
from compiler.compress.cut_channels import Mask, left, set_tensor
from compiler.compress.decision import Sample
from compiler.compress.least_squares import refit
from compiler.compress.observe import bindings, given, watching
from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.verify import verify

ROWS_PER_COLUMN, LEAST_ROWS, MOST_NUMBERS = 4, 2048, 2**24
MOST_COLUMNS = 4608  # beyond, the fit takes longer than it is worth: the bias alone moves


@dataclass(frozen=True, eq=False)
class _Run:
    """One sample in both graphs."""

    dense: dict[Value, Any]
    cut: dict[Value, Any]
    bindings: dict[str, Any]


@torch.no_grad()
def refit_readers(
    dense: Graph,
    cut: Graph,
    channels: Channels,
    kept: Mask,
    readers: Sequence[Reader],
    samples: Sequence[Sample],
) -> Graph:
    """Return the cut graph with the readers' weights fitted to what they gave in the dense graph.

    `channels` and `kept` say what was cut; all samples are held at once. A reader whose weights another
    operation shares, or that is a transposed convolution, keeps its own.
    """
    editor = Editor(cut)
    wanted = {r.node: r for r in readers if _alone(cut, cut.node(r.node))}
    awaited = list(watching(dense, [dense.node(name).value for name in wanted]).ops())
    changed = {name for name, stored in dense.constants.items() if cut.constants.get(name) != stored}
    runs = [_started(dense, cut, sample) for sample in samples]
    unread = Counter(v.node for node in awaited for _, v in node.values())
    for node in awaited:
        now = editor.graph.node(node.name)
        for run in runs:
            run_node(node, run.dense, run.bindings)
        if node.name in wanted:
            rows = left(channels.axes.get(node.value, ()), kept)
            now = _fitted(editor, now, wanted[node.name], runs, rows)
        if now != node or any(v.node in changed for _, v in node.values()):
            changed.add(node.name)
        for run in runs:
            _follow(run, now, node.name in changed)
        _release(node, runs, unread)
    result = editor.finish()
    verify(result)
    return result


def _follow(run: _Run, node: Node, changed: bool) -> None:
    """Run a node of the cut graph, or take what it gave in the dense one, where that is the same."""
    if changed:
        run_node(node, run.cut, run.bindings)
    else:
        outputs = (Value(node.name, i) for i in range(len(node.types)))
        run.cut.update({v: run.dense[v] for v in outputs})


def _started(dense: Graph, cut: Graph, sample: Sample) -> _Run:
    return _Run(given(dense, sample), given(cut, sample), bindings(dense, sample))


def _alone(graph: Graph, node: Node) -> bool:
    """Tell whether a reader can be fitted: its weights are its own."""
    stored = [v for k, v in node.values() if k in ("weight", "bias")]
    return "transpose" not in node.op and all(len(graph.uses(v)) == 1 for v in stored)


def _fitted(editor: Editor, node: Node, reader: Reader, runs: Sequence[_Run], rows: dict[int, Any]) -> Node:
    """Put the fitted weights into the editor and the runs, and return the node as it is then."""
    value = node.operand("weight")
    weight = runs[0].cut[value]
    missing = [_missing(node, run, rows) for run in runs]
    change, shift = _solution(editor.graph, node, reader, runs, missing, weight)
    new = (weight.double() + change.reshape(weight.shape)).to(weight.dtype)
    set_tensor(editor, value.node, new)
    node = _shifted(editor, node, shift)
    for run in runs:
        for key in ("weight", "bias"):
            own = node.operand(key)
            run.cut[own] = _stored(editor, own)
    return node


def _stored(editor: Editor, value: Value) -> torch.Tensor:
    tensor = editor.graph.constants[value.node].tensor
    assert tensor is not None
    return tensor


def _shifted(editor: Editor, node: Node, shift: torch.Tensor) -> Node:
    """Return the node with a bias moved, made where it has none."""
    bias = node.operand("bias")
    if bias is not None:
        old = _stored(editor, bias)
        set_tensor(editor, bias.node, (old.double() + shift).to(old.dtype))
        return node
    weight = node.operand("weight")
    dtype, origin = _stored(editor, weight).dtype, editor.graph.node(weight.node).origin
    made = editor.constant(shift.to(dtype), f"{node.name}_bias", origin, before=node.name)
    changed = replace(node, operands=tuple((k, made if k == "bias" else o) for k, o in node.operands))
    editor.update(changed)
    return changed


def _missing(node: Node, run: _Run, rows: dict[int, Any]) -> torch.Tensor:
    """Return what the dense layer gave and the cut one does not, for the channels that are left."""
    target = run.dense[node.value]
    for dim, own in rows.items():
        target = target.index_select(dim, torch.from_numpy(own))
    values = {v: run.cut[v] for _, v in node.values()}
    run_node(node, values, run.bindings)
    missing: torch.Tensor = target - values[node.value]
    return missing


def _solution(
    graph: Graph,
    node: Node,
    reader: Reader,
    runs: Sequence[_Run],
    missing: Sequence[torch.Tensor],
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the change of weight [out, in of a group] and of bias [out]."""
    place = channel_dim(graph, reader)
    size, count = weight.shape[0] // reader.groups, weight[0].numel()
    per_run = max(1, _most_rows(count) // len(runs))
    changes, shifts = [], []
    for group in range(reader.groups):
        inputs, targets = [], []
        for run, residual in zip(runs, missing, strict=True):
            own = residual.movedim(place, -1).flatten(0, -2)[:, group * size : (group + 1) * size]
            chosen = torch.from_numpy(np.linspace(0, len(own) - 1, min(len(own), per_run)).round()).long()
            source = run.cut[node.operand("input")]
            part = source.chunk(reader.groups, place)[group]
            targets.append(own[chosen])
            inputs.append(
                _rows(node, part, weight, place, chosen) if count <= MOST_COLUMNS else own[chosen, :0]
            )
        change, shift = refit(torch.cat(inputs).double(), torch.cat(targets).double())
        changes.append(change if count <= MOST_COLUMNS else change.new_zeros(size, count))
        shifts.append(shift)
    return torch.cat(changes), torch.cat(shifts)


def _most_rows(count: int) -> int:
    return min(max(LEAST_ROWS, ROWS_PER_COLUMN * count), MOST_NUMBERS // min(count, MOST_COLUMNS))


def _rows(
    node: Node, x: torch.Tensor, weight: torch.Tensor, place: int, chosen: torch.Tensor
) -> torch.Tensor:
    """Return what the chosen positions of a layer's result are sums of, [rows, in]."""
    spatial = weight.dim() - 2
    if spatial == 0:
        return x.flatten(0, -2)[chosen]
    pads = [n for n in reversed(node.operand("padding")) for _ in (0, 1)]
    x = F.pad(x, pads)
    for i, (step, gap) in enumerate(zip(node.operand("stride"), node.operand("dilation"), strict=True)):
        x = x.unfold(place + 1 + i, (weight.shape[2 + i] - 1) * gap + 1, step)[..., ::gap]
    front = [*range(place), *range(place + 1, place + 1 + spatial)]  # batch and positions
    x = x.permute(*front, place, *range(place + 1 + spatial, x.dim()))
    where = np.unravel_index(chosen.numpy(), x.shape[: len(front)])
    return x[tuple(torch.from_numpy(w) for w in where)].flatten(1)


def _release(node: Node, runs: Sequence[_Run], unread: dict[str, int]) -> None:
    """Forget what nothing reads any more."""
    for _, value in node.values():
        unread[value.node] -= 1
        if unread[value.node] == 0:
            for run in runs:
                run.dense.pop(value, None)
                run.cut.pop(value, None)
