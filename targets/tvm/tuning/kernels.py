"""The kernels of a fused Relax module, each once: by what it computes, not by its name."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from compiler.tuning import TunableKernel
from targets.tvm.static.program import Call, Kind, Program, Refusal, Storage, Tensor, element_bytes
from targets.tvm.static.relax_reader import refuse_packed

KERNEL = "kernel"  # the name of a function that is alone in its module


@dataclass(frozen=True)
class Source:
    """A kernel's function, and how many of its last parameters are results."""

    function: Any
    results: int


def key(function: Any) -> str:
    """Return a digest of what a function computes, 16 hexadecimal digits; its name does not count."""
    import tvm_ffi

    return f"{tvm_ffi.structural_hash(alone(function)) % 2**64:016x}"


def alone(function: Any) -> Any:
    """Return the module that holds a kernel's function alone, as MetaSchedule takes it."""
    import tvm

    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def read_kernels(fused: Any) -> tuple[dict[TunableKernel, Source], dict[str, str]]:
    """Return the kernels that can be tuned, in order of weight, and why the others cannot, by name."""
    sites = call_sites(fused)
    found: dict[str, tuple[str, Source, int]] = {}
    calls: Counter[str] = Counter()
    refused: dict[str, str] = {}
    for name, (variable, count, results) in sites.items():
        source = Source(fused[variable], results)
        try:
            operations = _operations(fused, name, source)
        except Refusal as refusal:
            refused[name] = str(refusal)
            continue
        digest = key(source.function)
        calls[digest] += count
        found.setdefault(digest, (name, source, operations))
    kernels = {TunableKernel(d, name, calls[d], n): source for d, (name, source, n) in found.items()}
    return dict(sorted(kernels.items(), key=lambda item: -item[0].weight)), refused


def call_sites(fused: Any) -> dict[str, tuple[Any, int, int]]:
    """Return each kernel's variable, how often it is called and how many results it has, by name."""
    from tvm import relax

    sites: dict[str, tuple[Any, int, int]] = {}

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.call_tir":
            variable, type_ = expression.args[0], expression.ty_args[0]
            results = len(type_.fields) if isinstance(type_, relax.TupleType) else 1
            name = str(variable.name_hint)
            count = sites[name][1] if name in sites else 0
            sites[name] = (variable, count + 1, results)

    relax.analysis.post_order_visit(fused["main"], visit)
    return sites


def program(source: Source) -> Program:
    """Return the program that calls a kernel once on inputs of its own; Refusal where it has no such form."""
    types = [_type(p) for p in source.function.params]
    first = len(types) - source.results
    storages = tuple(
        Storage(Kind.OUTPUT if i >= first else Kind.INPUT, math.prod(shape) * element_bytes(dtype))
        for i, (shape, dtype) in enumerate(types)
    )
    tensors = tuple(Tensor(i, shape, dtype) for i, (shape, dtype) in enumerate(types))
    numbers = tuple(range(len(types)))
    return Program(storages, tensors, (Call(KERNEL, numbers),), numbers[:first], numbers[first:])


def _operations(fused: Any, name: str, source: Source) -> int:
    from tvm.s_tir.analysis import estimate_tir_flops

    refuse_packed(fused, {name})
    program(source)
    count = int(estimate_tir_flops(alone(source.function)))
    if not count:
        raise Refusal("it moves data and computes nothing")
    return count


def _type(parameter: Any) -> tuple[tuple[int, ...], str]:
    import tvm

    shape = getattr(parameter, "shape", None)
    if shape is None:
        raise Refusal("it takes sizes at run time")
    if not all(isinstance(size, tvm.tirx.IntImm) for size in shape):
        raise Refusal("its shapes are dynamic")
    return tuple(int(size) for size in shape), str(parameter.dtype)
