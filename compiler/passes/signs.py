"""What is provably positive, or at least not negative, from operations and constants alone.

Over the reals: `exp` counts as positive although a float underflows to zero.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from compiler.ir.graph import Graph, Node, Operand, Value
from compiler.passes.weight_only import MOVEMENTS

_POSITIVE = {"exp", "sigmoid", "softplus", "softmax", "_softmax", "cosh"}
_NOT_NEGATIVE = {"abs", "relu", "relu6", "square", "sqrt", "linalg_vector_norm", "norm"}
_KEEP_SIGN = {"sqrt", "rsqrt", "reciprocal", "sum", "mean", "amax", "amin", "_to_copy", "to", "clone"}
_DEPTH = 32  # a longer chain is not looked through

Test = Callable[[Graph, Operand, int], bool]


def positive(graph: Graph, operand: Operand, depth: int = _DEPTH) -> bool:
    """Tell whether every element of an operand is greater than zero, as far as can be shown."""
    known = _known(graph, operand, operator.gt)
    if known is not None or not depth:
        return bool(known)
    node, name = _producer(graph, operand)
    if name in _POSITIVE:
        return True
    if name == "add" and node.operand("alpha", 1) == 1:
        a, b = _pair(node)
        return any(
            positive(graph, p, depth - 1) and nonnegative(graph, q, depth - 1) for p, q in ((a, b), (b, a))
        )
    return _inherited(graph, node, name, positive, depth)


def nonnegative(graph: Graph, operand: Operand, depth: int = _DEPTH) -> bool:
    """Tell whether no element of an operand is less than zero, as far as can be shown."""
    known = _known(graph, operand, operator.ge)
    if known is not None or not depth:
        return bool(known)
    node, name = _producer(graph, operand)
    exponent = node.operand("exponent")
    square = name == "mul" and node.operand("self") == node.operand("other")
    even = name == "pow" and isinstance(exponent, int | float) and exponent % 2 == 0
    if name in _NOT_NEGATIVE or square or even or positive(graph, operand, depth - 1):
        return True
    if name == "add" and node.operand("alpha", 1) == 1:
        return all(nonnegative(graph, part, depth - 1) for part in _pair(node))
    return _inherited(graph, node, name, nonnegative, depth)


def _known(graph: Graph, operand: Operand, compare: Callable[[Any, Any], Any]) -> bool | None:
    """Return the answer for a number or a constant, None for a computed value."""
    if not isinstance(operand, Value):
        return isinstance(operand, int | float) and bool(compare(operand, 0))
    tensor = graph.constant(operand)
    if tensor is None:
        return None
    return not tensor.dtype.is_complex and bool(compare(tensor, 0).all())


def _producer(graph: Graph, value: Value) -> tuple[Node, str]:
    node = graph.producer(value)
    return node, node.op.split(".")[1] if node.op else ""


def _pair(node: Node) -> tuple[Operand, Operand]:
    return node.operand("self"), node.operand("other")


def _inherited(graph: Graph, node: Node, name: str, test: Test, depth: int) -> bool:
    """Answer for operations whose result has the sign that their operands have."""
    if name in ("mul", "div"):
        return all(test(graph, part, depth - 1) for part in _pair(node))
    if name == "maximum":
        return any(test(graph, part, depth - 1) for part in _pair(node))
    if name in ("clamp_min", "clamp"):
        least, most = node.operand("min"), node.operand("max")
        bounded = least is not None and test(graph, least, depth - 1)
        return bounded and (most is None or test(graph, most, depth - 1))
    if name in _KEEP_SIGN or node.op in MOVEMENTS:
        return test(graph, node.operands[0][1], depth - 1)
    return name == "pow" and test is positive and positive(graph, node.operand("self"), depth - 1)
