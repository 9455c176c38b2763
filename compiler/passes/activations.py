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

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as f

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, Value
from compiler.passes.parts import between, computed, sources

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

    def inside(node: Node) -> bool:
        return node.op in _PARTS and node.type == root.type

    for source in sources(editor.graph, root, inside, MOST_PARTS):
        parts = between(editor.graph, source, root, inside, MOST_PARTS)
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


@torch.no_grad()
def _named(graph: Graph, parts: list[Node], source: Value) -> tuple[str, Mapping[str, Operand]] | None:
    """Return the operation that computes what `parts` do of `source`, and its options."""
    got = computed(graph, parts, source, GRID).expand_as(GRID)
    off = (got - _EXPECTED).abs() > TOLERANCE * (1 + _EXPECTED.abs())
    agree = (~off & got.isfinite()).all(1).nonzero().flatten().tolist()
    return NAMED[agree[0]][:2] if agree else None
