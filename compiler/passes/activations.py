"""Activations that are written in parts: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` is a GELU.

Exporters of old opsets and model code spell activations out, each in a way of its own, and a runtime has
one kernel for them under their name. What is recognised is a function, not a spelling: the operations
between a value and what is computed from it alone, element by element, are evaluated in float64 on a grid,
and replaced where they agree with a named activation as closely as constants rounded to float32 allow:

    |f(x) - g(x)| <= 2^-23 (1 + |g(x)|)      for x on the grid

Both sides are compositions of a dozen elementary functions, so that agreement on thousands of places is
agreement. The formulas are those of the papers that `torch.nn.functional` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch.nn import functional as f

from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Value

MOST_PARTS = 12  # of one activation
TOLERANCE = 2.0**-23
# Dense where activations bend, and far out where only their slope is left.
GRID = torch.cat([torch.linspace(-9, 9, 2049), torch.tensor([-40.0, -20.0, 20.0, 40.0])]).double()

NAMED: tuple[tuple[str, Mapping[str, Operand], Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("aten.gelu.default", {"approximate": "none"}, f.gelu),
    ("aten.gelu.default", {"approximate": "tanh"}, lambda x: f.gelu(x, approximate="tanh")),
    ("aten.silu.default", {}, f.silu),
    ("aten.hardswish.default", {}, f.hardswish),
    ("aten.hardsigmoid.default", {}, f.hardsigmoid),
    ("aten.mish.default", {}, f.mish),
    ("aten.sigmoid.default", {}, torch.sigmoid),
)
_EXPECTED = torch.stack([g(GRID) for _, _, g in NAMED])

_PARTS = frozenset(
    f"aten.{name}"
    for name in (
        *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "neg.default", "reciprocal.default"),
        *("pow.Tensor_Scalar", "exp.default", "log1p.default", "tanh.default", "sigmoid.default"),
        *("erf.default", "softplus.default", "clamp.default", "relu.default", "relu6.default"),
        *("hardtanh.default", "hardsigmoid.default", "minimum.default", "maximum.default"),
    )
)
_STRAIGHT = frozenset(
    f"aten.{name}" for name in ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "neg.default")
)
_LAST = frozenset(
    f"aten.{name}"
    for name in (
        *("mul.Tensor", "div.Tensor", "reciprocal.default"),
        *("clamp.default", "hardtanh.default", "relu6.default", "minimum.default"),
    )
)


def name_activations(graph: Graph) -> Graph:
    """Return the graph with each activation that is written in parts as the one operation it is."""
    editor = Editor(graph)
    for original in reversed(graph.ops()):  # the widest reading first: x * hardsigmoid(x) is a hardswish
        floats = original.type.dtype.is_floating_point if len(original.types) == 1 else False
        if original.op in _LAST and floats and original.name in editor.graph:
            _name(editor, editor.graph.node(original.name))
    return editor.finish()


def _name(editor: Editor, root: Node) -> None:
    """Replace what computes a node by the activation it is, where it is one of at least two operations."""
    for source in _sources(editor.graph, root):
        parts = _between(editor.graph, source, root)
        if parts is None or len(parts) < 2 or editor.graph.type_of(source) != root.type:
            continue
        if all(node.op in _STRAIGHT for node in parts):
            continue
        if (found := _named(editor.graph, parts, source)) is not None:
            op, options = found
            named = editor.ahead_of(root, op, {"self": source, **options}, root.type)
            editor.replace_uses(root.value, named)
            editor.remove_unread([root.name])
            return


def _sources(graph: Graph, root: Node) -> list[Value]:
    """Return what a node may be an activation of, the farthest first."""
    found: dict[Value, None] = {}
    level = [root]
    while level and len(found) < MOST_PARTS:
        values = [v for node in level for _, v in node.values() if graph.constant(v) is None]
        fresh = [v for v in dict.fromkeys(values) if v not in found]
        found.update(dict.fromkeys(fresh))
        level = [p for v in fresh if (p := graph.producer(v)).op in _PARTS and p.type == root.type]
    return list(reversed(found))


def _between(graph: Graph, source: Value, root: Node) -> list[Node] | None:
    """Return the operations from a value to a node, in order; None where another value takes part."""
    parts: dict[str, Node] = {}
    seen: set[str] = set()  # what is reached counts before what it needs does: chains can be long

    def reach(node: Node) -> bool:
        if node.name in parts:
            return True
        seen.add(node.name)
        if node.op not in _PARTS or node.type != root.type or len(seen) > MOST_PARTS:
            return False
        values = [v for _, v in node.values() if v != source]
        if not all(_is_number(graph, v) or reach(graph.producer(v)) for v in values):
            return False
        parts[node.name] = node
        return True

    return list(parts.values()) if reach(root) else None


def _is_number(graph: Graph, value: Value) -> bool:
    tensor = graph.constant(value)
    return tensor is not None and tensor.numel() == 1 and tensor.is_floating_point()


@torch.no_grad()
def _named(graph: Graph, parts: list[Node], source: Value) -> tuple[str, Mapping[str, Operand]] | None:
    """Return the operation that computes what `parts` do of `source`, and its options."""
    values: dict[Value, torch.Tensor] = {source: GRID}
    for value in _constants(graph, parts):
        tensor = graph.constant(value)
        assert tensor is not None
        values[value] = tensor.double().reshape(())
    for node in parts:
        run_node(node, values, {}, torch.float64)
    got = values[parts[-1].value].expand_as(GRID)
    off = (got - _EXPECTED).abs() > TOLERANCE * (1 + _EXPECTED.abs())
    agree = (~off & got.isfinite()).all(1).nonzero().flatten().tolist()
    return NAMED[agree[0]][:2] if agree else None


def _constants(graph: Graph, parts: list[Node]) -> Iterator[Value]:
    for node in parts:
        yield from (v for _, v in node.values() if graph.producer(v).kind is Kind.CONSTANT)
