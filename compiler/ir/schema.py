"""Operator schemas: overloads by name, and operands normalised to schema names.

Every operand of the schema stands in the node, defaults included, and `int[2] stride=1` stands as
two integers, so that no pass counts positions or knows a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from compiler.ir.graph import Kind, Node, Operand


@lru_cache(maxsize=2048)
def overload(op: str) -> torch._ops.OpOverload:
    """Return the torch overload behind an IR op name such as `aten.conv2d.default`.

    Raises KeyError where torch has no such overload.
    """
    namespace, _, rest = op.partition(".")
    name, _, variant = rest.rpartition(".")
    if namespace == "quantized_decomposed":
        import torchao.quantization.pt2e  # noqa: F401  # registers the namespace's operators
    try:
        found: Any = getattr(getattr(getattr(torch.ops, namespace), name), variant)
    except (AttributeError, RuntimeError) as error:
        raise KeyError(f"torch has no operator {op!r}") from error
    if not isinstance(found, torch._ops.OpOverload):
        raise KeyError(f"{op!r} is not an operator overload")
    return found


def op_name(target: torch._ops.OpOverload) -> str:
    """Return the IR name of an overload."""
    return f"{target.namespace}.{target._opname}.{target._overloadname}"


# What an operator that may draw random numbers is given where it does not.
_STILL = {"dropout_p": 0.0, "p": 0.0, "train": False, "training": False}


def draws(node: Node) -> bool:
    """Tell whether a node draws random numbers: attention without dropout does not, nor dropout in eval."""
    if node.kind is not Kind.OP or not _is_random(node.op):
        return False
    return not any(key in _STILL and operand == _STILL[key] for key, operand in node.operands)


def normalize(
    op: str, args: Sequence[Operand], kwargs: Mapping[str, Operand]
) -> tuple[tuple[str, Operand], ...]:
    """Return all operands of a call by schema name, in schema order, defaults filled in.

    Raises KeyError for an unknown operator or operand, ValueError for a missing one.
    """
    arguments = overload(op)._schema.arguments
    given = {a.name: value for a, value in zip(arguments, args, strict=False)} | dict(kwargs)
    unknown = set(given) - {a.name for a in arguments}
    if unknown:
        raise KeyError(f"{op} has no operand {sorted(unknown)}")
    return tuple((a.name, _value(a, given)) for a in arguments)


def _value(argument: Any, given: Mapping[str, Operand]) -> Operand:
    if argument.name in given:
        value = given[argument.name]
    elif argument.has_default_value():
        value = freeze(argument.default_value)
    else:
        raise ValueError(f"operand {argument.name!r} is missing")
    size = argument.N
    if not size or value is None:
        return value
    items = value if isinstance(value, tuple) else (value,)
    return items * size if len(items) == 1 else items


def freeze(value: Any) -> Operand:
    """Return a default or literal with lists turned into tuples."""
    return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value


def _is_random(op: str) -> bool:
    """Tell whether an operator can draw random numbers."""
    return torch.Tag.nondeterministic_seeded in overload(op).tags
