r"""Kernels mixed once in place of convolutions mixed: `sum_i a_i (K_i * x) = (sum_i a_i K_i) * x`.

The coefficients are data, one for the whole call or one for each sample; with one for each sample the
mixed kernels run as one grouped convolution, a group a sample (`merges.md` 1.11). Exact over the reals; the
price decides, since mixing costs as much as the kernels are large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compiler.cost.counts import counts
from compiler.cost.kernel import Kernel, TensorSpec, kernel_call, kernel_of
from compiler.cost.roofline import Roofline
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Operand, TensorType, Value
from compiler.ir.sums import is_inner, is_sum
from compiler.ir.sums import terms as addends
from compiler.merge.attempt import Attempt, Outcome, Work
from compiler.merge.certificate import agreement
from compiler.merge.price import Price
from compiler.merge.sizes import constant

_SHARED = ("input", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Term:
    """One convolution with constant weights, and the coefficient it is multiplied with."""

    layer: Node
    coefficient: Value


def mix_kernels(graph: Graph, price: Price) -> tuple[Graph, list[Attempt]]:
    """Return the graph with every sum of weighted convolutions of one input as one, and the attempts."""
    attempts: list[Attempt] = []
    editor, order = Editor(graph), graph.ops()
    graph = editor.graph
    for original in order:
        if original.name not in graph:
            continue
        node = graph.node(original.name)
        terms = _mixture(graph, node)
        if terms is None:
            continue
        kernels = _kernels(graph, node, terms)
        judge = price.for_all(k for side in kernels for k in side)
        before, after = (
            _costs(graph, node, terms, judge.prior)
            if judge.table is None
            else (sum(map(judge.kernel, side)) for side in kernels)
        )
        residual = _mix(editor, node, terms) if after < before else None
        attempts.append(_attempt(node, terms, before, after, judge.label, residual))
    return editor.finish(), attempts


def mixture_kernels(graph: Graph) -> Iterator[Kernel]:
    """Yield the kernels whose latency decides whether kernels are mixed, or their results."""
    for node in graph.ops():
        terms = _mixture(graph, node)
        if terms is not None:
            yield from (k for side in _kernels(graph, node, terms) for k in side)


def _mixture(graph: Graph, node: Node) -> list[Term] | None:
    if not is_sum(graph, node) or is_inner(graph, node) or not node.type.static:
        return None
    found = [_term(graph, t, node) for t in addends(graph, node)]
    terms = [t for t in found if t is not None]
    if len(terms) < 2 or len(terms) != len(found):
        return None
    first = terms[0].layer
    same = all(
        t.layer.op == first.op
        and all(t.layer.operand(k) == first.operand(k) for k in _SHARED)
        and graph.type_of(t.layer.operand("weight")) == graph.type_of(first.operand("weight"))
        and graph.type_of(t.coefficient) == graph.type_of(terms[0].coefficient)
        for t in terms
    )
    return terms if same and (first.operand("groups") == 1 or _samples(graph, terms[0]) == 1) else None


def _term(graph: Graph, value: Value, node: Node) -> Term | None:
    product = graph.producer(value)
    if product.op != "aten.mul.Tensor" or len(graph.uses(value)) != 1:
        return None
    for a, b in (("self", "other"), ("other", "self")):
        layer_value, coefficient = product.operand(a), product.operand(b)
        if not isinstance(layer_value, Value) or not isinstance(coefficient, Value):
            continue
        layer = graph.producer(layer_value)
        if constant(graph, coefficient) is not None:
            continue  # an affine region like any other
        bias = layer.operand("bias")
        stored = graph.constant(layer.operand("weight")) is not None
        whole = layer.op.startswith("aten.conv") and not layer.op.startswith("aten.conv_")
        shape = graph.type_of(coefficient).shape
        small = math.prod(d for d in shape if isinstance(d, int)) in (1, shape[0] if shape else 1)
        samples = not shape or (all(d == 1 for d in shape[1:]) and shape[0] in (1, node.type.shape[0]))
        alone = len(graph.uses(layer_value)) == 1 and (bias is None or graph.constant(bias) is not None)
        if whole and stored and small and samples and alone and layer.type == node.type:
            return Term(layer, coefficient)
    return None


def _samples(graph: Graph, term: Term) -> int:
    shape = graph.type_of(term.coefficient).shape
    return shape[0] if shape and len(shape) == term.layer.type.rank and isinstance(shape[0], int) else 1


def _kernels(graph: Graph, node: Node, terms: Sequence[Term]) -> tuple[list[Kernel], list[Kernel]]:
    """Return the kernels of the sum as it stands, and of the mixed form."""
    layer, samples, count = terms[0].layer, _samples(graph, terms[0]), len(terms)
    call = kernel_of(graph, layer)
    name = str(node.type.dtype).removeprefix("torch.")
    out, gate = _spec(_ints(node.type), name), _spec(_ints(graph.type_of(terms[0].coefficient)), name)
    before = [call, kernel_call("aten.mul.Tensor", {"self": out, "other": gate})] * count
    before += [kernel_call("aten.add.Tensor", {"self": out, "other": out})] * (count - 1)
    operands, after = dict(call.operands), list[Kernel]()
    for key in ("weight", "bias"):
        if operands[key] is not None:
            shape = operands[key].shape
            small, spread = _spec((samples, *(1,) * len(shape)), name), _spec((samples, *shape), name)
            after += [kernel_call("aten.mul.Tensor", {"self": small, "other": operands[key]})] * count
            after += [kernel_call("aten.add.Tensor", {"self": spread, "other": spread})] * (count - 1)
            operands[key] = _spec((samples * shape[0], *shape[1:]), name)
    if samples > 1:
        source = operands["input"].shape
        operands["input"] = _spec((1, samples * source[1], *source[2:]), name)
        operands["groups"] = samples
    return before, [*after, kernel_call(layer.op, operands)]


def _spec(shape: tuple[int, ...], dtype: str) -> TensorSpec:
    return TensorSpec(shape, dtype, False)


def _costs(graph: Graph, node: Node, terms: Sequence[Term], prior: Roofline) -> tuple[float, float]:
    size = node.type.dtype.itemsize
    out = _ints(node.type)
    source = _ints(graph.type_of(terms[0].layer.operand("input")))
    weight = _ints(graph.type_of(terms[0].layer.operand("weight")))
    samples = _samples(graph, terms[0])

    def cost(op: str, inputs: list[tuple[int, ...]], result: tuple[int, ...]) -> float:
        return prior.cost(counts(op, inputs, [result], size))

    layer = cost(terms[0].layer.op, [source, weight], out)
    product, sum_ = cost("aten.mul.Tensor", [out, (1,)], out), cost("aten.add.Tensor", [out, out], out)
    before = len(terms) * (layer + product) + (len(terms) - 1) * sum_
    kernels = math.prod(weight)
    mixing = cost("aten.linear.default", [(samples, len(terms)), (kernels, len(terms))], (samples, kernels))
    return before, layer + mixing


def _ints(type_: TensorType) -> tuple[int, ...]:
    return tuple(d for d in type_.shape if isinstance(d, int))


def _mix(editor: Editor, node: Node, terms: Sequence[Term]) -> float | None:
    """Write the mixed form in the place of a sum, and return the float64 residual."""
    graph = editor.graph
    layer, samples = terms[0].layer, _samples(graph, terms[0])
    op = _writer(editor, node)
    weight = _combined(graph, terms, "weight", samples, op)
    biased = [t for t in terms if t.layer.operand("bias") is not None]
    bias = _combined(graph, biased, "bias", samples, op) if biased else None
    operands = dict(layer.operands) | {"weight": weight, "bias": bias}
    if samples == 1:
        value = op(layer.op, operands, node.type)
    else:
        source = graph.type_of(layer.operand("input"))
        joined = (1, samples * source.shape[1], *source.shape[2:])  # type: ignore[operator]
        operands["input"] = _reshaped(op, layer.operand("input"), TensorType(joined, source.dtype))
        operands["groups"] = samples
        made = (1, samples * node.type.shape[1], *node.type.shape[2:])  # type: ignore[operator]
        value = op(layer.op, operands, TensorType(made, node.type.dtype))
        value = _reshaped(op, value, node.type)
    data = [layer.operand("input"), *(t.coefficient for t in terms)]
    residual = agreement(graph, graph, [(node.value, value)], data)
    editor.replace_uses(node.value, value)
    editor.remove_unread([node.name])
    return residual


Op = Callable[[str, dict[str, Operand], TensorType], Value]


def _writer(editor: Editor, node: Node) -> Op:
    def op(name: str, operands: dict[str, Operand], type_: TensorType) -> Value:
        return editor.ahead_of(node, name, operands, type_)

    return op


def _combined(graph: Graph, terms: Sequence[Term], name: str, samples: int, op: Op) -> Value:
    """Return `sum_i a_i T_i` of the layers' weights or biases, stacked over samples on the first axis."""
    type_ = graph.type_of(terms[0].layer.operand(name))
    spread = TensorType((samples, *type_.shape), type_.dtype)
    total: Value | None = None
    for term in terms:
        small = TensorType((samples, *(1,) * type_.rank), type_.dtype)
        gate = _reshaped(op, term.coefficient, small)
        made = op("aten.mul.Tensor", {"self": gate, "other": term.layer.operand(name)}, spread)
        total = made if total is None else op("aten.add.Tensor", {"self": total, "other": made}, spread)
    assert total is not None
    joined = (samples * type_.shape[0], *type_.shape[1:])  # type: ignore[operator]
    return _reshaped(op, total, TensorType(joined, type_.dtype))


def _reshaped(op: Op, value: Value, type_: TensorType) -> Value:
    return op("aten.reshape.default", {"self": value, "shape": type_.shape}, type_)


def _attempt(
    node: Node, terms: Sequence[Term], before: float, after: float, by: str, residual: float | None
) -> Attempt:
    better = after < before
    reason = f"mixing {len(terms)} kernels first costs {after / before:.2f} times mixing their results ({by})"
    names = (*(t.layer.name for t in terms), node.name)
    outcome = Outcome.MERGED if better else Outcome.KEPT
    entry = terms[0].layer.operand("input").node
    return Attempt(
        node.origin,
        entry,
        node.name,
        names,
        outcome,
        reason,
        "" if better else node.name,
        form="one convolution with mixed kernels",
        before=Work(tuple(t.layer.op for t in terms), cost=before),
        after=Work((terms[0].layer.op,), cost=after),
        priced_by=by,
        residual=residual,
    )
