"""Symbolic dimensions: Python expressions over a graph's symbols, evaluated on ints or SymInts.

torch prints its own expressions as Python (`torch.utils._sympy.printers.PythonPrinter`), so a
`Sym` is that text with readable symbol names; the same text evaluates under plain ints and under
`torch.export` tracing, where the values are SymInts.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

from compiler.ir.graph import Dim, Graph, Operand, Sym, TensorType, Value

_FUNCTIONS = {"math": math, "max": max, "min": min, "abs": abs, "int": int, "float": float}


@lru_cache(maxsize=4096)
def _code(text: str) -> CodeType:
    return compile(ast.parse(text, mode="eval"), "<dimension>", "eval")


def resolve(dim: Dim, bindings: Mapping[str, Any]) -> Any:
    """Return a dimension's value under symbol bindings; KeyError-free text for what is unbound."""
    if not isinstance(dim, Sym):
        return dim
    try:
        return eval(_code(dim.text), {"__builtins__": {}}, {**_FUNCTIONS, **bindings})
    except NameError as error:
        raise KeyError(f"dimension {dim.text!r} is not bound: {error}") from error


def resolve_operand(operand: Operand, values: Mapping[Value, Any], bindings: Mapping[str, Any]) -> Any:
    """Return an operand with values, symbols and tuples replaced by what torch is called with."""
    if isinstance(operand, Value):
        return values[operand]
    if isinstance(operand, Sym):
        return resolve(operand, bindings)
    if isinstance(operand, tuple):
        return [resolve_operand(item, values, bindings) for item in operand]
    return operand


def bind(types: Sequence[TensorType], shapes: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the symbol bindings that input shapes imply; a symbol is read where it stands alone."""
    bindings: dict[str, Any] = {}
    for type_, shape in zip(types, shapes, strict=True):
        for dim, size in zip(type_.shape, shape, strict=True):
            if isinstance(dim, Sym) and dim.text.isidentifier():
                bindings.setdefault(dim.text, size)
    return bindings


def example_sizes(graph: Graph) -> dict[str, int]:
    """Return the size of each symbol in the example call; where none is known the least, at least 1."""
    return {name: symbol.example or max(symbol.low, 1) for name, symbol in graph.symbols.items()}


def hint(graph: Graph, dim: Dim) -> int:
    """Return a typical size of a dimension: that of the example call."""
    return int(resolve(dim, example_sizes(graph)))
