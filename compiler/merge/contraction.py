"""Contractions of several tensors in the cheapest order (`merges.md` 1.11, 2.28).

An `einsum` of an `einsum` that nothing else reads is one contraction of all their operands: the cores of a
matrix product operator, a bilinear form. Which two meet first decides the cost, and nothing else. Every
order is tried; what constants do among themselves is done at build time. Each step is written as
permutations and one matrix product, which runtimes have kernels for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch

from compiler.cost.kernel import Kernel
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, TensorType, Value
from compiler.merge.attempt import Attempt, Outcome, Work
from compiler.merge.certificate import agreement
from compiler.merge.price import Price, product_kernel
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from compiler.passes.products import unify_products

_EINSUM = "aten.einsum.default"
_MOST = 6  # operands; the orders grow with the factorial


@dataclass(frozen=True)
class Part:
    """One operand: its value, its indices in order, and whether it is constant."""

    value: Value
    indices: tuple[int, ...]
    constant: bool


@dataclass(frozen=True)
class Contraction:
    """All operands of a nest of einsums, the indices of the result, sizes by index, the present order."""

    parts: tuple[Part, ...]
    out: tuple[int, ...]
    sizes: Mapping[int, int]
    tree: Tree


Tree = int | tuple["Tree", "Tree"]


def contract(graph: Graph, price: Price) -> tuple[Graph, list[Attempt]]:
    """Return the graph with every einsum as matrix products in the cheapest order, and the attempts."""
    attempts: list[Attempt] = []
    editor, changed, order = Editor(graph), False, graph.ops()
    graph = editor.graph
    for original in order:
        node = graph.node(original.name) if original.name in graph else None
        found = None if node is None else _outermost(graph, node)
        if node is None or found is None:
            continue
        judge = price.for_all(_steps(found, node.type.dtype))
        cost = _pricing(found, node.type.dtype, judge)
        best = _cheapest(found, cost)
        better = cost(best) < cost(found.tree) * (1 - 1e-9)
        residual = _emit(editor, node, found, best if better else found.tree)
        if len(found.parts) > 2:
            costs = cost(found.tree), cost(best)
            attempts.append(_attempt(node, found, costs, judge.label, residual, better))
        changed = True
    graph = editor.finish()
    return (unify_products(dead_code(fold_weights(graph))) if changed else graph), attempts


def contraction_kernels(graph: Graph) -> Iterator[Kernel]:
    """Yield the kernels whose latency decides the orders of contractions."""
    for node in graph.ops():
        found = _outermost(graph, node)
        if found is not None and len(found.parts) > 2:
            yield from _steps(found, node.type.dtype)


def _outermost(graph: Graph, node: Node) -> Contraction | None:
    return None if node.op != _EINSUM or _inner(graph, node) else _contraction(graph, node)


def _inner(graph: Graph, node: Node) -> bool:
    uses = graph.uses(node.value)
    return len(uses) == 1 and uses[0][0].op == _EINSUM and _readable(graph, uses[0][0])


def _readable(graph: Graph, node: Node) -> bool:
    """Tell whether an einsum names every index, repeats none within an operand and has static sizes."""
    equation = str(node.operand("equation")).replace(" ", "")
    left, arrow, _ = equation.partition("->")
    whole = arrow and "." not in equation and all(len(set(t)) == len(t) for t in left.split(","))
    return bool(whole) and all(graph.type_of(v).static for v in node.operand("tensors"))


def _contraction(graph: Graph, node: Node) -> Contraction | None:
    if not _readable(graph, node):
        return None
    parts: list[Part] = []
    sizes: dict[int, int] = {}
    names = iter(range(1 << 20))

    def walk(current: Node, out: tuple[int, ...]) -> Tree:
        left, _, right = str(current.operand("equation")).replace(" ", "").partition("->")
        index = dict(zip(right, out, strict=True))
        found: list[Tree] = []
        for term, value in zip(left.split(","), current.operand("tensors"), strict=True):
            indices = tuple(_index(index, letter, names) for letter in term)
            maker = graph.producer(value)
            if maker.op == _EINSUM and _inner(graph, maker) and _readable(graph, maker):
                found.append(walk(maker, indices))
                continue
            shape = graph.type_of(value).shape
            sizes.update((i, d) for i, d in zip(indices, shape, strict=True) if isinstance(d, int))
            parts.append(Part(value, indices, graph.constant(value) is not None))
            found.append(len(parts) - 1)
        tree = found[0]
        for other in found[1:]:
            tree = (tree, other)
        return tree

    out = tuple(next(names) for _ in node.type.shape)
    tree = walk(node, out)
    return Contraction(tuple(parts), out, sizes, tree) if 2 <= len(parts) <= _MOST else None


def _index(known: dict[str, int], letter: str, names: Iterator[int]) -> int:
    """Return the number of an index, a new one where the letter is new."""
    if letter not in known:
        known[letter] = next(names)
    return known[letter]


def _members(tree: Tree) -> tuple[int, ...]:
    return (tree,) if isinstance(tree, int) else (*_members(tree[0]), *_members(tree[1]))


def _kept(found: Contraction, members: Sequence[int]) -> tuple[int, ...]:
    """Return the indices that something outside these operands still needs, in order of appearance."""
    inside = [i for m in members for i in found.parts[m].indices]
    outside = {i for m, p in enumerate(found.parts) if m not in members for i in p.indices} | set(found.out)
    return tuple(dict.fromkeys(i for i in inside if i in outside))


Cost = Callable[[Tree], float]


def _steps(found: Contraction, dtype: torch.dtype) -> Iterator[Kernel]:
    """Yield the product of each two sets of parts, of those that any order multiplies."""
    everyone = tuple(range(len(found.parts)))
    for size in range(2, len(everyone) + 1):
        for members in combinations(everyone, size):
            for tree in _splits(members):
                kernel = _kernel(found, tree, dtype)
                if kernel is not None:
                    yield kernel


def _splits(members: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield each way to part members in two; the first stays left."""
    first, rest = members[0], members[1:]
    for size in range(len(rest)):
        for chosen in combinations(rest, size):
            yield (first, *chosen), tuple(m for m in rest if m not in chosen)


def _kernel(
    found: Contraction, sides: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype
) -> Kernel | None:
    """Return the product of two sets of parts, None where both are constant."""
    fixed = (all(found.parts[m].constant for m in sides[0]), all(found.parts[m].constant for m in sides[1]))
    if all(fixed):
        return None
    batch, rows, inner, columns = (
        math.prod(found.sizes[i] for i in group) for group in _indices(found, sides)
    )
    lead = (batch,) if batch > 1 else ()
    return product_kernel((*lead, rows, inner), (*lead, inner, columns), dtype, fixed)


def _pricing(found: Contraction, dtype: torch.dtype, price: Price) -> Cost:
    @cache
    def cost(tree: Tree) -> float:
        if isinstance(tree, int):
            return 0.0
        kernel = _kernel(found, (_members(tree[0]), _members(tree[1])), dtype)
        return 0.0 if kernel is None else price.kernel(kernel) + cost(tree[0]) + cost(tree[1])

    return cost


def _groups(
    found: Contraction, tree: tuple[Tree, Tree]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the indices both sides keep, those of the left, those summed, and those of the right."""
    return _indices(found, (_members(tree[0]), _members(tree[1])))


def _indices(
    found: Contraction, sides: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    left, right = (_kept(found, side) for side in sides)
    kept = set(_kept(found, (*sides[0], *sides[1])))
    batch = tuple(i for i in left if i in right and i in kept)
    inner = tuple(i for i in left if i in right and i not in kept)
    return batch, tuple(i for i in left if i not in right), inner, tuple(i for i in right if i not in left)


def _cheapest(found: Contraction, cost: Cost) -> Tree:
    @cache
    def best(members: tuple[int, ...]) -> Tree:
        if len(members) == 1:
            return members[0]
        options: list[Tree] = [(best(left), best(right)) for left, right in _splits(members)]
        return min(options, key=cost)

    return best(tuple(range(len(found.parts))))


def _emit(editor: Editor, node: Node, found: Contraction, tree: Tree) -> float | None:
    """Write a contraction as matrix products in an order, and return the float64 residual."""

    def op(name: str, operands: dict[str, Operand], shape: tuple[int, ...]) -> Value:
        return editor.ahead_of(node, name, operands, TensorType(shape, node.type.dtype))

    def shape(indices: Sequence[int]) -> tuple[int, ...]:
        return tuple(found.sizes[i] for i in indices)

    def ordered(value: Value, have: tuple[int, ...], want: tuple[int, ...]) -> Value:
        if have == want:
            return value
        dims = tuple(have.index(i) for i in want)
        return op("aten.permute.default", {"self": value, "dims": dims}, shape(want))

    def grouped(value: Value, groups: Sequence[tuple[int, ...]]) -> Value:
        sizes = tuple(math.prod(shape(g)) for g in groups)
        return op("aten.reshape.default", {"self": value, "shape": sizes}, sizes)

    def made(part: Tree) -> tuple[Value, tuple[int, ...]]:
        if isinstance(part, int):
            own = found.parts[part]
            kept = tuple(i for i in own.indices if i in _kept(found, (part,)))
            dims = tuple(k for k, i in enumerate(own.indices) if i not in kept)
            if not dims:
                return own.value, own.indices
            summed = {"self": own.value, "dim": dims, "keepdim": False}
            return op("aten.sum.dim_IntList", summed, shape(kept)), kept
        (left, have), (right, other) = made(part[0]), made(part[1])
        batch, rows, inner, columns = _groups(found, part)
        head = (batch,) if batch else ()
        a = grouped(ordered(left, have, (*batch, *rows, *inner)), (*head, rows, inner))
        b = grouped(ordered(right, other, (*batch, *inner, *columns)), (*head, inner, columns))
        sizes = tuple(math.prod(shape(g)) for g in (*head, rows, columns))
        product = op("aten.matmul.default", {"self": a, "other": b}, sizes)
        indices = (*batch, *rows, *columns)
        spread = op("aten.reshape.default", {"self": product, "shape": shape(indices)}, shape(indices))
        return spread, indices

    result = ordered(*made(tree), found.out)
    data = [p.value for p in found.parts if not p.constant]
    residual = agreement(editor.graph, editor.graph, [(node.value, result)], data)
    editor.replace_uses(node.value, result)
    editor.remove_unread([node.name])
    return residual


def _attempt(
    node: Node,
    found: Contraction,
    costs: tuple[float, float],
    by: str,
    residual: float | None,
    better: bool,
) -> Attempt:
    before, after = costs
    names = ", ".join(f"%{p.value.node}" for p in found.parts)
    reason = (
        f"contracting {names} in another order costs {after / max(before, 1.0):.2f} times this one ({by})"
        if better
        else f"no order of contracting {names} is cheaper than this one ({by})"
    )
    outcome = Outcome.MERGED if better else Outcome.KEPT
    entry = next((p.value.node for p in found.parts if not p.constant), node.name)
    return Attempt(
        node.origin,
        entry,
        node.name,
        (node.name,),
        outcome,
        reason,
        "" if better else node.name,
        form=f"contraction of {len(found.parts)} tensors",
        before=Work(("einsum",), cost=before),
        after=Work(("einsum",), cost=after),
        priced_by=by,
        residual=residual if better else None,
    )
