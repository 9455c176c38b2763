"""The affine part of a normalisation, as operations of its own while merging.

`layer_norm(x, w, b) = w * layer_norm(x) + b`: consumers absorb the scale and the shift, all of them or
none (`merges.md` 1.8). What nobody absorbed goes back into the normalisation afterwards.
"""

from __future__ import annotations

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value

_NORMS = ("aten.layer_norm.default", "aten.group_norm.default", "aten.rms_norm.default")


def exposed(graph: Graph) -> Graph:
    """Return the graph with every constant scale and shift of a normalisation outside it."""
    editor = Editor(graph)
    for original in graph.ops():
        node = editor.graph.node(original.name)
        parts = _parts(editor.graph, node)
        if not parts:
            continue
        bare = dict(node.operands) | {name: None for name, _ in parts}
        result = editor.ahead_of(node, node.op, bare)
        for name, op in parts:
            other = _along(editor, node, node.operand(name))
            result = editor.ahead_of(node, op, {"self": result, "other": other})
        editor.replace_uses(node.value, result)
        editor.remove_unread([node.name])
    return editor.finish()


def restored(graph: Graph) -> Graph:
    """Return the graph with the scales and shifts that follow a bare normalisation back inside it."""
    editor = Editor(graph)
    for original in graph.ops():
        if original.name not in editor.graph:
            continue
        node = editor.graph.node(original.name)
        found = _followers(editor.graph, node)
        if not found:
            continue
        operands = dict(node.operands)
        for name, follower in found.items():
            operands[name] = _flat(editor, node, follower)
        last = list(found.values())[-1]
        result = editor.ahead_of(last, node.op, operands)
        editor.replace_uses(last.value, result)
        editor.remove_unread([last.name])
    return editor.finish()


def follows_norm(graph: Graph, node: Node) -> bool:
    """Tell whether a node is a scale or shift that `restored` would put back."""
    source = node.operand("self")
    while isinstance(source, Value):
        maker = graph.producer(source)
        if maker.op in _NORMS:
            return any(f.name == node.name for f in _followers(graph, maker).values())
        source = maker.operand("self") if maker.op == "aten.mul.Tensor" else None
    return False


def _parts(graph: Graph, node: Node) -> list[tuple[str, str]]:
    """Return (operand, operation) of the constant scale and shift of a normalisation."""
    if node.op not in _NORMS or (node.op == "aten.group_norm.default" and node.type.rank < 3):
        return []
    named = [("weight", "aten.mul.Tensor"), ("bias", "aten.add.Tensor")]
    given = [(name, op) for name, op in named if node.operand(name) is not None]
    return given if all(graph.constant(node.operand(name)) is not None for name, _ in given) else []


def _followers(graph: Graph, node: Node) -> dict[str, Node]:
    """Return the scale and the shift behind a bare normalisation, by the operand they would fill."""
    if node.op not in _NORMS or node.operand("weight") is not None or node.operand("bias") is not None:
        return {}
    found: dict[str, Node] = {}
    current = node
    for name, op in (("weight", "aten.mul.Tensor"), ("bias", "aten.add.Tensor")):
        readers = graph.uses(current.value)
        after = readers[0][0] if len(readers) == 1 else None
        if after is None or after.op != op or (name == "bias" and node.op == "aten.rms_norm.default"):
            continue
        other = graph.constant(after.operand("other"))
        if after.operand("alpha", 1) == 1 and other is not None and _fits(node, tuple(other.shape)):
            found[name] = after
            current = after
    return found if "weight" in found else {}


def _fits(node: Node, shape: tuple[int, ...]) -> bool:
    if node.op == "aten.group_norm.default":
        return shape == (node.type.shape[1], *(1,) * (node.type.rank - 2))
    return shape == tuple(node.operand("normalized_shape"))


def _along(editor: Editor, node: Node, value: Value) -> Value:
    """Return a group norm's vector, [C], shaped to broadcast along the second axis."""
    tensor = editor.graph.constant(value)
    if node.op != "aten.group_norm.default" or tensor is None:
        return value
    column = tensor.reshape(-1, *(1,) * (node.type.rank - 2))
    return editor.constant(column, f"{value.node}_column", node.origin, before=node.name)


def _flat(editor: Editor, node: Node, follower: Node) -> Value:
    value: Value = follower.operand("other")
    tensor = editor.graph.constant(value)
    if node.op != "aten.group_norm.default" or tensor is None:
        return value
    return editor.constant(tensor.flatten(), f"{value.node}_flat", node.origin, before=node.name)
