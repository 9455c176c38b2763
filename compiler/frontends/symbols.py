"""torch's shape symbols under readable names: `s77` becomes `n0`, in order of appearance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils._sympy.printers import PythonPrinter

from compiler.errors import UnsupportedModelError
from compiler.ir.graph import Dim, Sym, Symbol


class Symbols:
    """The renaming of one program's symbols, and their ranges."""

    def __init__(self, program: ExportedProgram) -> None:
        """Read the range constraints of a program."""
        self._constraints = program.range_constraints
        self._names: dict[sympy.Symbol, sympy.Symbol] = {}
        self._examples: dict[sympy.Symbol, int] = {}

    def dim(self, value: Any, where: Callable[[], str]) -> Dim | Any:
        """Return a size, an int or a SymInt, as a dimension.

        Raises UnsupportedModelError for a size that depends on data.
        """
        if isinstance(value, torch.SymFloat | torch.SymBool):
            expression = value.node.expr
        elif not isinstance(value, torch.SymInt):
            return value
        else:
            expression = value.node.expr
        if expression.is_Integer:
            return int(expression)
        for symbol in sorted(expression.free_symbols, key=str):
            if str(symbol).startswith(("u", "zuf")):
                raise UnsupportedModelError(f"a shape depends on data: {where()}")
            example = value.node.shape_env.backed_var_to_val.get(symbol)
            if example is not None and example.is_Integer:
                self._examples[symbol] = int(example)
            self._names.setdefault(symbol, sympy.Symbol(f"n{len(self._names)}", integer=True, positive=True))
        return Sym(PythonPrinter().doprint(expression.xreplace(self._names)))

    def ranges(self) -> dict[str, Symbol]:
        """Return readable name -> range and example for every symbol met."""
        ranges = {}
        for symbol, name in self._names.items():
            constraint = self._constraints.get(symbol)
            low = 1 if constraint is None else max(1, int(constraint.lower))
            high = None if constraint is None or not constraint.upper.is_Integer else int(constraint.upper)
            ranges[str(name)] = Symbol(low, high, self._examples.get(symbol))
        return ranges
