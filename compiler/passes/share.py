"""Tied weights are stored once, and what is computed from them is computed once.

Equal constants (content, dtype, shape) become one, whether the model tied them or a file stores them
twice; so do equal operations on weights alone, so that each weight-only cone is folded once however
many layers read it. A tied weight read as `x @ permute(W)` is read in place by `linear(x, W)`: folding
the permute would store the weight a second time (`merges.md` 1.13, 2.26).

`tied` counts the readers of each shared weight, for passes that must not un-share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, TensorType, Value
from compiler.ir.text import print_operand
from compiler.passes.weight_only import MOVEMENTS, weight_only

_PRODUCTS = {"aten.matmul.default", "aten.mm.default"}


def share(graph: Graph) -> Graph:
    """Return the graph with equal weights stored once and equal computations on them done once."""
    editor = Editor(graph)
    _share_constants(editor)
    _share_computations(editor)
    _read_in_place(editor)
    return editor.finish()


def tied(graph: Graph) -> Mapping[str, int]:
    """Return constant name -> number of operations that read it, for constants with two or more.

    A permute, reshape or expand is not a reader itself: those behind it are.
    """
    counts = {n.name: len(readers(graph, n.name)) for n in graph.nodes() if n.kind is Kind.CONSTANT}
    return {name: count for name, count in counts.items() if count > 1}


def readers(graph: Graph, name: str) -> set[str]:
    """Return the names of the nodes that read a node, through whatever only moves its elements."""
    found: set[str] = set()
    work, seen = [name], {name}
    while work:
        for user in graph.users(work.pop()):
            if user.op not in MOVEMENTS:
                found.add(user.name)
            elif user.name not in seen:
                seen.add(user.name)
                work.append(user.name)
    return found


def _share_constants(editor: Editor) -> None:
    alike: dict[TensorType, list[Node]] = defaultdict(list)
    for node in editor.graph.nodes():
        if node.kind is Kind.CONSTANT:
            alike[node.type].append(node)
    for nodes in alike.values():
        first: dict[str, Node] = {}
        for node in nodes if len(nodes) > 1 else ():  # a digest reads the whole weight
            kept = first.setdefault(editor.graph.constants[node.name].digest, node)
            if kept is not node:
                _replace(editor, node, kept)


def _share_computations(editor: Editor) -> None:
    names = weight_only(editor.graph)
    first: dict[str, Node] = {}
    for original in editor.graph.nodes():
        if original.kind is Kind.OP and original.name in names:
            node = editor.graph.node(original.name)
            kept = first.setdefault(_expression(node), node)
            if kept is not node:
                _replace(editor, node, kept)


def _expression(node: Node) -> str:
    operands = ", ".join(f"{key}={print_operand(operand)}" for key, operand in node.operands)
    return f"{node.op}({operands}) : {' | '.join(map(str, node.types))}"


def _replace(editor: Editor, node: Node, kept: Node) -> None:
    for index in range(len(node.types)):
        editor.replace_uses(Value(node.name, index), Value(kept.name, index))
    editor.remove(node.name)


def _read_in_place(editor: Editor) -> None:
    for node in editor.graph.ops():
        weight = _transposed(editor.graph, node) if node.op in _PRODUCTS else None
        if weight is not None and len(readers(editor.graph, weight.node)) > 1:
            operands = {"input": node.operand("self"), "weight": weight, "bias": None}
            linear = editor.op(
                "aten.linear.default",
                operands,
                node.types,
                "linear",
                node.origin,
                node.source,
                before=node.name,
            )
            editor.replace_uses(node.value, linear)
            editor.remove_unread([node.name])


def _transposed(graph: Graph, node: Node) -> Value | None:
    """Return the weight whose transposition a product reads on its right, None for any other."""
    right: Value = node.operand("other", node.operand("mat2"))
    permute = graph.producer(right)
    if permute.op != "aten.permute.default" or tuple(permute.operand("dims")) != (1, 0):
        return None
    source: Value = permute.operand("self")
    return source if graph.producer(source).kind is Kind.CONSTANT else None
