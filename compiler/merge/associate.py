"""Products of matrices in the cheapest order (`merges.md` 1.11).

`(Q K^T) V = Q (K^T V)`, `P (Q K^T) = (P Q) K^T`: exact over the reals, and a pure question of cost. A
chain is what a tree of matrix products with single readers multiplies, constants and scalar factors
among them; the cheapest parentheses are found by dynamic programming over the price of each product.

Cormen et al., "Introduction to Algorithms", matrix-chain order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch

from compiler.cost.kernel import Kernel
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, TensorType, Value
from compiler.merge.attempt import Attempt, Outcome, Work
from compiler.merge.certificate import agreement
from compiler.merge.price import Price, product_kernel
from compiler.merge.sizes import sizes
from compiler.passes.fold_weights import fold_weights

_PRODUCTS = ("aten.matmul.default", "aten.bmm.default", "aten.mm.default")


@dataclass(frozen=True)
class Factor:
    """One matrix of a chain: its value and shape; `transposed`: a linear's weight, [out, in]."""

    value: Value
    shape: tuple[int, ...]
    constant: bool
    transposed: bool = False


@dataclass(frozen=True)
class Chain:
    """The factors of a product in order, the scalar they are multiplied with, and the present order."""

    factors: tuple[Factor, ...]
    scale: float
    tree: Tree


Tree = int | tuple["Tree", "Tree"]
Span = tuple[int, int, int]  # the first factor, the last of the left side, the last of the right


def associate(graph: Graph, price: Price) -> tuple[Graph, list[Attempt]]:
    """Return the graph with every chain of matrix products in its cheapest order, and the attempts."""
    attempts: list[Attempt] = []
    editor, changed, order = Editor(graph), False, graph.ops()
    graph = editor.graph
    for original in order:
        if original.name not in graph:
            continue
        node = graph.node(original.name)
        chain = _chain(graph, node)
        if chain is None:
            continue
        products = _products(chain.factors, node.type.dtype)
        judge = price.for_all(products.values())
        cost = _pricing(products, judge)
        best = _cheapest(len(chain.factors), cost)
        before, after = cost(chain.tree), cost(best)
        better = after < before * (1 - 1e-9)
        residual = _emit(editor, node, chain, best) if better else None
        changed |= better
        tree = best if better else chain.tree
        attempts.append(_attempt(node, chain, tree, before, after, judge.label, residual, better))
    graph = editor.finish()
    return (fold_weights(graph) if changed else graph), attempts


def order_kernels(graph: Graph) -> Iterator[Kernel]:
    """Yield the kernels whose latency decides the orders of matrix products."""
    for node in graph.ops():
        chain = _chain(graph, node)
        if chain is not None:
            yield from _products(chain.factors, node.type.dtype).values()


def _chain(graph: Graph, node: Node) -> Chain | None:
    """Return the chain that ends at a node, None where it is part of a larger one or too short."""
    if _sides(graph, node) is None or _inner(graph, node):
        return None
    factors: list[Factor] = []
    scale = 1.0

    def walk(value: Value, transposed: bool) -> Tree:
        nonlocal scale
        factor, maker = _unscaled(graph, value)
        sides = _sides(graph, maker) if maker is not None and not transposed else None
        if maker is None or sides is None:
            constant = graph.constant(value) is not None
            factors.append(Factor(value, sizes(graph, graph.type_of(value)), constant, transposed))
            return len(factors) - 1
        scale *= factor
        return tuple(walk(*s) for s in sides)  # type: ignore[return-value]

    sides = _sides(graph, node)
    assert sides is not None
    tree: Tree = (walk(*sides[0]), walk(*sides[1]))
    if len(factors) < 3 or sum(not f.constant for f in factors) < 2:
        return None
    lead = {f.shape[:-2] for f in factors if not f.constant}
    return Chain(tuple(factors), scale, tree) if len(lead) == 1 else None


def _sides(graph: Graph, node: Node) -> tuple[tuple[Value, bool], tuple[Value, bool]] | None:
    """Return the two factors of a product, each with whether it is stored transposed."""
    if node.kind is not Kind.OP or not node.types[0].static:
        return None
    if node.op in _PRODUCTS:
        left, right = node.operand("self"), node.operand("mat2") or node.operand("other")
        ranks = graph.type_of(left).rank, graph.type_of(right).rank
        return ((left, False), (right, False)) if min(ranks) >= 2 else None
    plain = node.op == "aten.linear.default" and node.operand("bias") is None
    if plain and graph.constant(node.operand("weight")) is not None:
        return (node.operand("input"), False), (node.operand("weight"), True)
    return None


def _unscaled(graph: Graph, value: Value) -> tuple[float, Node | None]:
    """Return the scalar in front of a product with one reader, and the product."""
    node, scale = graph.producer(value), 1.0
    while len(graph.uses(node.value)) == 1:
        if _sides(graph, node) is not None:
            return scale, node
        other = node.operand("other")
        scalar = isinstance(other, int | float) and not isinstance(other, bool)
        if node.op not in ("aten.mul.Tensor", "aten.div.Tensor") or not scalar or other == 0:
            break
        scale *= other if "mul" in node.op else 1 / other
        node = graph.producer(node.operand("self"))
    return 1.0, None


def _inner(graph: Graph, node: Node) -> bool:
    """Tell whether a product is a factor of another one and of nothing else."""
    value = node.value
    while True:
        uses = graph.uses(value)
        if len(uses) != 1:
            return False
        reader = uses[0][0]
        sides = _sides(graph, reader)
        if sides is not None:
            return (value, False) in sides
        scalar = isinstance(reader.operand("other"), int | float)
        if reader.op not in ("aten.mul.Tensor", "aten.div.Tensor") or not scalar:
            return False
        value = reader.value


def _products(factors: Sequence[Factor], dtype: torch.dtype) -> dict[Span, Kernel]:
    """Return the kernel of each product of `first .. middle` and `middle + 1 .. last` that is no constant."""
    lead = max((f.shape[:-2] for f in factors), key=len)
    ends = [_ends(f) for f in factors]
    found: dict[Span, Kernel] = {}
    for first, last in combinations(range(len(factors)), 2):
        for middle in range(first, last):
            fixed = tuple(
                all(f.constant for f in part)
                for part in (factors[first : middle + 1], factors[middle + 1 : last + 1])
            )
            if not all(fixed):
                rows, inner, columns = ends[first][0], ends[middle][1], ends[last][1]
                left = (*(() if fixed[0] else lead), rows, inner)
                right = (*(() if fixed[1] else lead), inner, columns)
                found[first, middle, last] = product_kernel(left, right, dtype, (fixed[0], fixed[1]))
    return found


def _pricing(products: Mapping[Span, Kernel], price: Price) -> Callable[[Tree], float]:
    def span(tree: Tree) -> tuple[int, int]:
        return (tree, tree) if isinstance(tree, int) else (span(tree[0])[0], span(tree[1])[1])

    @cache
    def cost(tree: Tree) -> float:
        if isinstance(tree, int):
            return 0.0
        (first, middle), (_, last) = span(tree[0]), span(tree[1])
        kernel = products.get((first, middle, last))
        return 0.0 if kernel is None else price.kernel(kernel) + cost(tree[0]) + cost(tree[1])

    return cost


def _ends(factor: Factor) -> tuple[int, int]:
    rows, columns = factor.shape[-2:]
    return (columns, rows) if factor.transposed else (rows, columns)


def _cheapest(count: int, cost: Callable[[Tree], float]) -> Tree:
    @cache
    def best(first: int, last: int) -> Tree:
        if first == last:
            return first
        options: list[Tree] = [(best(first, k), best(k + 1, last)) for k in range(first, last)]
        return min(options, key=cost)

    return best(0, count - 1)


def _emit(editor: Editor, node: Node, chain: Chain, tree: Tree) -> float | None:
    """Write a product in another order, and return the float64 residual."""
    lead = max((f.shape[:-2] for f in chain.factors if not f.constant), key=len)

    def made(part: Tree) -> tuple[Value, tuple[int, int], bool, bool]:
        """Return (value, rows and columns, constant, stored transposed)."""
        if isinstance(part, int):
            factor = chain.factors[part]
            return factor.value, _ends(factor), factor.constant, factor.transposed
        left, right = made(part[0]), made(part[1])
        constant = left[2] and right[2]
        ends = (left[1][0], right[1][1])
        shape = (*(() if constant else lead), *ends)
        return _product(editor, node, left, right, shape), ends, constant, False

    value = made(tree)[0]
    if chain.scale != 1:
        value = editor.ahead_of(node, "aten.mul.Tensor", {"self": value, "other": chain.scale})
    if editor.graph.type_of(value) != node.type:
        value = editor.ahead_of(node, "aten.reshape.default", {"self": value, "shape": node.type.shape})
    data = [f.value for f in chain.factors if not f.constant]
    residual = agreement(editor.graph, editor.graph, [(node.value, value)], data)
    editor.replace_uses(node.value, value)
    editor.remove_unread([node.name])
    return residual


def _product(editor: Editor, node: Node, left, right, shape: tuple[int, ...]) -> Value:  # type: ignore[no-untyped-def]
    a, b = left[0], right[0]
    if left[3]:
        a = _transposed(editor, node, a)
    type_ = TensorType(shape, node.type.dtype)
    if right[3] and not left[2]:
        return editor.ahead_of(node, "aten.linear.default", {"input": a, "weight": b, "bias": None}, type_)
    if right[3]:
        b = _transposed(editor, node, b)
    return editor.ahead_of(node, "aten.matmul.default", {"self": a, "other": b}, type_)


def _transposed(editor: Editor, node: Node, value: Value) -> Value:
    shape = editor.graph.type_of(value).shape
    type_ = TensorType((shape[1], shape[0]), node.type.dtype)
    return editor.ahead_of(node, "aten.permute.default", {"self": value, "dims": (1, 0)}, type_)


def _attempt(
    node: Node,
    chain: Chain,
    tree: Tree,
    before: float,
    after: float,
    label: str,
    residual: float | None,
    better: bool,
) -> Attempt:
    names = " ".join(f"%{f.value.node}" for f in chain.factors)
    reason = (
        f"the product of {names} in the order {_text(tree)} is cheaper ({label})"
        if better
        else f"no order of the product {names} is cheaper than this one ({label})"
    )
    return Attempt(
        node.origin,
        chain.factors[0].value.node,
        node.name,
        (node.name,),
        Outcome.MERGED if better else Outcome.KEPT,
        reason,
        "" if better else node.name,
        form=f"product of {len(chain.factors)} matrices",
        before=Work((_text(chain.tree),), cost=before),
        after=Work((_text(tree),), cost=after),
        priced_by=label,
        residual=residual,
    )


def _text(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"({_text(tree[0])} {_text(tree[1])})"
