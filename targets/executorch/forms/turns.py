r"""Interleaved rearrangements of the last axis as one product with a signed permutation.

Rotary position embeddings write :math:`(-x_1, x_0, -x_3, x_2, \ldots)` as two slices of step two, a
negation, a stack and a reshape. XNNPACK takes no slice with a step, and copies element by element what
is interleaved again. The whole is :math:`x R` with one :math:`\pm 1` in each column of :math:`R`; a
matrix product of that size is faster up to `WIDEST` channels (`benchmarks/legal_forms.py`).

What the operations move is found by running them once on numbers that stand for the elements: each
selects, so that every result is plus or minus one element. For finite inputs only: 0 times an infinity
is none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch

from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.verify import verify
from targets.rewriting import Maker

WIDEST = 64  # the widest that was measured
MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("slice.Tensor", "neg.default", "stack.default", "cat.default", "reshape.default"),
        *("unsqueeze.default", "squeeze.dim", "select.int", "unbind.int", "chunk.default", "split.Tensor"),
    )
)

Moved = dict[Value, torch.Tensor]


def turns(graph: Graph) -> Graph:
    """Return an equal graph with interleaved rearrangements of the last axis as products."""
    sources = dict.fromkeys(n.operand("self") for n in graph.ops() if _interleaved(graph, n))
    found = [turn for source in sources for turn in _turns(graph, source)]
    if not found:
        return graph
    editor = Editor(graph)
    for source, node, matrix in found:
        editor.replace_uses(node.value, _product(Maker(editor, node), source, matrix))
        editor.remove_unread([node.name])
    made = editor.finish()
    verify(made)
    return made


def _interleaved(graph: Graph, node: Node) -> bool:
    """Tell whether a node takes every n-th element of a last axis that is not too wide."""
    if node.op != "aten.slice.Tensor" or node.operand("step") == 1:
        return False
    type_ = graph.type_of(node.operand("self"))
    if type_.dtype is not torch.float32 or not type_.static:
        return False
    return node.operand("dim") % type_.rank == type_.rank - 1 and type_.shape[-1] <= WIDEST  # type: ignore[operator]


def _turns(graph: Graph, source: Value) -> Iterator[tuple[Value, Node, torch.Tensor]]:
    """Yield the last rearrangements of a value into its own shape, each with its matrix, [out, in]."""
    shape = graph.type_of(source).shape
    codes = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)  # type: ignore[arg-type]
    moved, stepped = _moved(graph, source, codes)
    whole = [v for v in stepped if moved[v].shape == codes.shape]
    for value in whole:
        node = graph.producer(value)
        inner = any(n.value in whole for n in graph.users(node.name))
        matrix = None if inner else _matrix(codes, moved[value])
        if matrix is not None:
            yield source, node, matrix


def _moved(graph: Graph, source: Value, codes: torch.Tensor) -> tuple[Moved, list[Value]]:
    """Return where the elements of a value are in all that only moves them, and what has passed a step."""
    moved, stepped = {source: codes}, dict[Value, None]()
    work = deque(graph.users(source.node))
    while work:
        node = work.popleft()
        reads = [v for _, v in node.values()]
        known = node.value in moved or not all(v in moved for v in reads)
        if known or node.op not in MOVES or not all(t.static for t in node.types):
            continue
        run_node(node, moved, {})
        if _interleaved(graph, node) or any(v in stepped for v in reads):
            stepped |= dict.fromkeys(Value(node.name, i) for i in range(len(node.types)))
        work.extend(graph.users(node.name))
    return moved, list(stepped)


def _matrix(codes: torch.Tensor, moved: torch.Tensor) -> torch.Tensor | None:
    """Return the signed selection that every row of the last axis undergoes, None where rows differ."""
    width = codes.shape[-1]
    rows = moved.reshape(-1, width)
    at = rows.abs().long() - 1
    at = at - width * torch.arange(len(rows))[:, None]
    within = bool(((at >= 0) & (at < width)).all())
    if not within or not torch.equal(at, at[:1].expand_as(at)) or not _alike(rows.sign()):
        return None
    matrix = torch.zeros(width, width)
    matrix[torch.arange(width), at[0]] = rows[0].sign().float()
    return None if torch.equal(matrix, torch.eye(width)) else matrix


def _alike(rows: torch.Tensor) -> bool:
    return torch.equal(rows, rows[:1].expand_as(rows))


def _product(make: Maker, source: Value, matrix: torch.Tensor) -> Value:
    width, shape = len(matrix), make.node.type.shape
    flat = make.op("aten.reshape.default", (source, (math.prod(shape[:-1]), width)))  # type: ignore[arg-type]
    turned = make.op(
        "aten.linear.default",
        (flat, make.constant(matrix, "turn"), None),
        shape=(math.prod(shape[:-1]), width),  # type: ignore[arg-type]
    )
    return make.op("aten.reshape.default", (turned, shape))
