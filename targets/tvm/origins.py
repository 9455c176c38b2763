"""Which nodes of the IR each call of a kernel computes.

Fusing makes functions of several calls, one function for all places that are equal, and names its
results anew. So what a call computes is told by value: a call of the same function on the same values
is the same call before and after. The values before are numbered, each with the node that its variable
marks; the calls after are followed into their functions, to the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from targets.tvm.importing import Imported

NO_ORDER = -1  # of a function whose kind TVM does not tell


@dataclass(frozen=True)
class Fusion:
    """A module's stages: operations as functions, these in groups, and each group as one function."""

    flat: Any
    grouped: Any
    fused: Any


def origins(imported: Imported, fusion: Fusion, known: Collection[str]) -> dict[str, list[str]]:
    """Return the nodes of each call of a kernel, the heaviest first, by the name that the runners give it.

    `known` are the nodes of the user's graph; what was written in their place is told by their names.
    A call of which nothing is known has no nodes.
    """
    numbers: dict[Any, int] = {}
    nodes = nodes_behind(imported, _Calls(fusion.flat, numbers).of_main())
    weights = dict(_weights(fusion.flat, numbers))
    groups = [made for _, made in _Calls(fusion.grouped, numbers).of_main() if made]
    names = _call_names(fusion.fused)
    if len(names) != len(groups):
        return {name: [] for name in names if name}
    found = {}
    for name, made in zip(names, groups, strict=True):
        ordered = sorted(made, key=lambda number: -weights.get(number, NO_ORDER))
        told = (_known(nodes.get(number, ""), known) for number in ordered)
        if name:
            found[name] = [node for node in dict.fromkeys(told) if node]
    return found


class _Calls:
    """The calls of functions that a module's `main` makes, as numbers of what they compute."""

    def __init__(self, module: Any, numbers: dict[Any, int]) -> None:
        from tvm import relax

        self.relax = relax
        self.functions = {str(v.name_hint): f for v, f in module.functions.items()}
        self.numbers = numbers
        self.made: list[int] = []

    def of_main(self) -> list[tuple[str, list[int]]]:
        """Return each variable of `main` with the calls that compute it."""
        main = self.functions["main"]
        known = {p: self._number("parameter", i) for i, p in enumerate(main.params)}
        return [(str(b.var.name), self._bound(b, known)) for b in _bindings(main)]

    def _bound(self, binding: Any, known: dict[Any, int]) -> list[int]:
        self.made = []
        known[binding.var] = self._value(binding.value, known)
        return self.made

    def _value(self, expression: Any, known: dict[Any, int]) -> int:
        relax = self.relax
        if isinstance(expression, relax.Call):
            return self._call(expression, known)
        if isinstance(expression, relax.Tuple):
            return self._number("tuple", *(self._value(f, known) for f in expression.fields))
        if isinstance(expression, relax.TupleGetItem):
            return self._number("field", self._value(expression.tuple_value, known), int(expression.index))
        if isinstance(expression, relax.Var | relax.Constant):
            return known[expression] if expression in known else self._number(expression)
        return self._number(str(expression))

    def _call(self, call: Any, known: dict[Any, int]) -> int:
        name = str(getattr(call.op, "name_hint", None) or getattr(call.op, "name", call.op))
        if name == "relax.call_tir":
            number = self._number(str(call.args[0].name_hint), self._value(call.args[1], known))
            self.made.append(number)
            return number
        values = [self._value(argument, known) for argument in call.args]
        function = self.functions.get(name)
        if not isinstance(function, self.relax.Function):
            return self._number(name, str(call.attrs), *values)
        inside = dict(zip(function.params, values, strict=True))
        for binding in _bindings(function):
            inside[binding.var] = self._value(binding.value, inside)
        return self._value(function.body.body, inside)

    def _number(self, *key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


def _bindings(function: Any) -> Iterator[Any]:
    for block in getattr(function.body, "blocks", ()):
        yield from block.bindings


def nodes_behind(imported: Imported, made: Sequence[tuple[str, list[int]]]) -> dict[int, str]:
    """Return the node of each number; what an operation is written out in comes before its own variable."""
    nodes: dict[int, str] = {}
    node = ""
    for variable, numbers in reversed(made):
        marked = imported.node(variable)
        node = node if marked is None else marked
        nodes |= dict.fromkeys(numbers, node)
    return nodes


def _weights(flat: Any, numbers: Mapping[Any, int]) -> Iterator[tuple[int, int]]:
    """Return for each call's number TVM's kind of its function: the heavier the work, the higher it is."""
    from tvm import relax

    kinds = {
        str(variable.name_hint): int(function.attrs["op_pattern"])
        for variable, function in flat.functions.items()
        if not isinstance(function, relax.Function) and "op_pattern" in (function.attrs or {})
    }
    return ((number, kinds[key[0]]) for key, number in numbers.items() if key[0] in kinds)


def _call_names(fused: Any) -> list[str]:
    """Return the runners' name of each call of a kernel, empty for one that TVM makes a view of later."""
    from tvm import relax

    calls = [_kernel(b.value) for b in _bindings(fused["main"])]
    left = [_kernel(b.value) for b in _bindings(relax.transform.RewriteDataflowReshape()(fused)["main"])]
    if len(left) != len(calls):
        return []
    seen: Counter[str] = Counter()
    names = []
    for before, after in zip(calls, left, strict=True):
        if before:
            seen[after] += 1
            names.append(call_name(after, seen[after]) if after else "")
    return names


def call_name(kernel: str, time: int) -> str:
    """Return what the runners call a kernel's n-th call in an inference."""
    return kernel if time == 1 else f"{kernel}#{time}"


def _kernel(value: Any) -> str:
    """Return the name of the kernel that a binding calls, empty where it calls none."""
    called = str(getattr(getattr(value, "op", None), "name", ""))
    return str(value.args[0].name_hint) if called == "relax.call_tir" else ""


def _known(node: str, known: Collection[str]) -> str:
    """Return a node of the graph, for one that was written in its place: that has words behind the name."""
    while node and node not in known:
        node = node.rpartition("_")[0]
    return node
