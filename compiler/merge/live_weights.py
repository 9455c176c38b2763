"""Why a layer has no constant weights: the refusals of what cannot even begin to merge.

A convolution, a linear or a normalisation whose weights or statistics are computed at run time is a
barrier. The cone of its weights is walked back to what makes it so: an input, the model's state, a random
draw.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.schema import draws
from compiler.merge.affine_ops import affine
from compiler.merge.attempt import Attempt, Outcome
from compiler.merge.describe import window
from compiler.merge.sizes import constant

_LAYERS = ("aten.conv", "aten.linear.", "aten.embedding.")


def live_weights(graph: Graph) -> list[Attempt]:
    """Return a refusal for each layer whose weights are not constant, naming what they depend on."""
    found = []
    for node in graph.ops():
        for reason, blame in _reasons(graph, node):
            around = window(graph, blame)
            names = (node.name,)
            found.append(
                Attempt(node.origin, names[0], names[0], names, Outcome.REFUSED, reason, blame, window=around)
            )
    return found


def _reasons(graph: Graph, node: Node) -> Iterator[tuple[str, str]]:
    if node.op == "aten.batch_norm.default":
        if node.operand("training") or node.operand("running_mean") is None:
            yield "it normalises by the batch statistics, so it is no affine operation", node.name
        return
    if draws(node) and _whole(graph, node):
        yield "it draws random numbers at every call; nothing behind it is folded", node.name
        return
    if node.op.startswith("aten.fft_irfft"):
        yield from _spectrum(graph, node)
        return
    if not node.op.startswith(_LAYERS) or not isinstance(node.operand("weight"), Value):
        return
    weight: Value = node.operand("weight")
    if constant(graph, weight) is None:
        cause, blame = _cause(graph, weight)
        yield f"its weight depends on {cause}", blame


def _spectrum(graph: Graph, node: Node) -> Iterator[tuple[str, str]]:
    """Yield why a product of spectra is no convolution with a constant kernel."""
    if affine(graph, node.value) is not None:
        return
    cause, blame = _cause(graph, node.value)
    if not node.type.static:
        yield "its length is only known at run time, and so is its kernel", node.name
    else:
        yield f"its kernel depends on {cause}", blame


def _whole(graph: Graph, node: Node) -> bool:
    return any(True for _ in graph.users(node.name))


def _cause(graph: Graph, value: Value) -> tuple[str, str]:
    """Return what makes a value change between calls, and the node to blame."""
    seen: set[str] = set()
    work = [value.node]
    causes: dict[Kind | str, str] = {}
    while work:
        name = work.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.node(name)
        if node.kind in (Kind.INPUT, Kind.STATE):
            causes.setdefault(node.kind, name)
        elif draws(node):
            causes.setdefault("random", name)
        work += [v.node for _, v in node.values()]
    if "random" in causes:
        return f"a random draw, {causes['random']!r}", causes["random"]
    if Kind.STATE in causes:
        return f"the model's state {causes[Kind.STATE]!r}, which it writes", causes[Kind.STATE]
    if Kind.INPUT in causes:
        return f"the input {causes[Kind.INPUT]!r}, which is only known at run time", causes[Kind.INPUT]
    return "operations that are not folded", value.node
