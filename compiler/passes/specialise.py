"""Specialise: an input that never changes becomes a constant, and leaves the call.

A task id, a tuning coefficient, a timestep or a prompt that is fixed in deployment makes everything
computed from it weight-only, and the ordinary passes fold it: tunable convolutions become plain ones,
a dual encoder an image tower with a constant classifier (`merges.md` 2.17, 2.22, 2.24). The result
equals the model for that value and every value of the other inputs.

A dynamic size that the value has is bound everywhere: in the other inputs' types as well.
"""

from __future__ import annotations

import ast
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UsageError
from compiler.ir.dims import bind, resolve
from compiler.ir.edit import Editor
from compiler.ir.graph import Dim, Graph, Node, Operand, Signature, Sym, Symbol, TensorType


def specialise(graph: Graph, frozen: Mapping[str, torch.Tensor]) -> Graph:
    """Return the graph with inputs, by name, replaced by constants; it takes the other inputs only.

    Raises UsageError, listing the inputs with their types, for a name that is none of them, a dtype or
    shape that does not fit, and where no input would be left.
    """
    if not frozen:
        return graph
    for name, tensor in frozen.items():
        _check(graph, name, tensor)
    if len(frozen) == len(graph.inputs()):
        raise UsageError(f"every input is frozen, and nothing is left to compute: {_inputs(graph)}")
    bindings = _bindings(graph, frozen)
    editor = Editor(graph)
    for name, tensor in frozen.items():
        constant = editor.constant(tensor.detach().contiguous().clone(), f"{name}_frozen", name, before=name)
        editor.replace_uses(graph.node(name).value, constant)
        editor.remove(name)
    for node in editor.graph.nodes() if bindings else ():
        bound = _bound_node(node, bindings)
        if bound != node:
            editor.update(bound)
    result = editor.finish()
    result.symbols = {name: limits for name, limits in graph.symbols.items() if name not in bindings}
    result.signature = _signature(graph.signature, frozen)
    return result


def without(tree: Any, dropped: Callable[[Any], bool]) -> Any:
    """Return a call's arguments without the leaves that `dropped` picks; emptied containers go too.

    Raises UsageError where a leaf stands in a container whose fields are fixed, a named tuple or a
    registered class.
    """
    if isinstance(tree, dict) and type(tree) in (dict, OrderedDict):
        kept = {key: without(item, dropped) for key, item in tree.items() if not _gone(item, dropped)}
        return type(tree)(kept)
    if type(tree) in (list, tuple):
        return type(tree)(without(item, dropped) for item in tree if not _gone(item, dropped))
    if not pytree.tree_is_leaf(tree) and any(map(dropped, pytree.tree_leaves(tree))):
        raise UsageError(
            f"a frozen input stands in a {type(tree).__name__}, whose fields cannot leave the call; "
            f"inputs can be frozen that are arguments, or items of a list, tuple or dict"
        )
    return tree


def _gone(tree: Any, dropped: Callable[[Any], bool]) -> bool:
    """Tell whether nothing but dropped leaves stands in a list, tuple, dict, or leaf."""
    if not pytree.tree_is_leaf(tree) and type(tree) not in (list, tuple, dict, OrderedDict):
        return False
    leaves = pytree.tree_leaves(tree)
    return bool(leaves) and all(map(dropped, leaves))


def _check(graph: Graph, name: str, tensor: torch.Tensor) -> None:
    node = next((n for n in graph.inputs() if n.name == name), None)
    if node is None:
        raise UsageError(f"the model has no input {name!r} to freeze; its inputs are {_inputs(graph)}")
    fits = len(tensor.shape) == node.type.rank and all(
        isinstance(dim, Sym) or dim == size for dim, size in zip(node.type.shape, tensor.shape, strict=True)
    )
    if tensor.dtype != node.type.dtype or not fits:
        given = TensorType(tuple(tensor.shape), tensor.dtype)
        raise UsageError(f"input {name!r} cannot be frozen to a {given}; the inputs are {_inputs(graph)}")


def _inputs(graph: Graph) -> str:
    return ", ".join(f"{n.name}: {n.type}" for n in graph.inputs()) or "none"


def _bindings(graph: Graph, frozen: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the sizes that the frozen values give to symbols.

    Raises UsageError where two values disagree, a size is out of its range, or an expression has not
    the size it is given.
    """
    types = [graph.node(name).type for name in frozen]
    shapes = [tuple(tensor.shape) for tensor in frozen.values()]
    bindings = bind(types, shapes)
    for name, size in bindings.items():
        low, high, _ = graph.symbols.get(name, Symbol(1, None))
        if size < low or (high is not None and size > high):
            raise UsageError(f"size {size} is out of the range of {name}, {low} to {high or 'any'}")
    for name, type_, shape in zip(frozen, types, shapes, strict=True):
        for dim, size in zip(type_.shape, shape, strict=True):
            if isinstance(dim, Sym):
                _agree(name, dim, size, bindings)
    return bindings


def _agree(name: str, dim: Sym, size: int, bindings: Mapping[str, int]) -> None:
    try:
        expected = int(resolve(dim, bindings))
    except KeyError as error:
        raise UsageError(
            f"input {name!r} cannot be frozen: its size {dim} is an expression of sizes that it does not "
            f"fix by itself; freeze an input of which each size stands alone as well"
        ) from error
    if expected != size:
        raise UsageError(f"input {name!r} has size {size} where {dim} is {expected}")


def _bound_node(node: Node, bindings: Mapping[str, int]) -> Node:
    types = tuple(
        dataclasses.replace(type_, shape=tuple(_bound_dim(dim, bindings) for dim in type_.shape))
        for type_ in node.types
    )
    operands = tuple((key, _bound(operand, bindings)) for key, operand in node.operands)
    return dataclasses.replace(node, types=types, operands=operands)


def _bound_dim(dim: Dim, bindings: Mapping[str, int]) -> Dim:
    bound: Operand = _bound(dim, bindings)
    return bound if isinstance(bound, Sym) else int(bound)


def _bound(operand: Operand, bindings: Mapping[str, int]) -> Operand:
    if isinstance(operand, tuple):
        return tuple(_bound(item, bindings) for item in operand)
    if not isinstance(operand, Sym):
        return operand
    tree = ast.parse(operand.text, mode="eval")
    free = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - {*bindings, "math", *_FUNCTIONS}
    if not free:
        return resolve(operand, bindings)
    return Sym(ast.unparse(_Substitution(bindings).visit(tree)))


_FUNCTIONS = ("max", "min", "abs", "int", "float")  # what an expression may call, see `compiler.ir.dims`


class _Substitution(ast.NodeTransformer):
    """Numbers in the place of bound symbols."""

    def __init__(self, bindings: Mapping[str, int]) -> None:
        self.bindings = bindings

    def visit_Name(self, node: ast.Name) -> ast.expr:  # the name is Python's own protocol
        return ast.Constant(self.bindings[node.id]) if node.id in self.bindings else node


@dataclasses.dataclass(frozen=True)
class _Place:
    """A leaf of the call, while its place is looked up."""

    kind: str
    value: Operand


def _signature(signature: Signature, frozen: Mapping[str, torch.Tensor]) -> Signature:
    """Return the signature of the call without the frozen inputs."""
    if not signature.leaves:
        return signature
    places = [_Place(kind, value) for kind, value in signature.leaves]
    call = pytree.tree_unflatten(places, pytree.treespec_loads(signature.in_spec))
    args, kwargs = (
        without(part, lambda leaf: leaf.kind == "input" and leaf.value in frozen) for part in call
    )
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return Signature(
        pytree.treespec_dumps(spec), signature.out_spec, tuple((leaf.kind, leaf.value) for leaf in leaves)
    )
