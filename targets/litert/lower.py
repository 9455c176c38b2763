"""Graphs -> `model.tflite`: flatten, convert with litert-torch, ask the interpreter what it delegates.

Each method is a signature of one file, which holds constants of equal content once, as far as the
converter lays them out alike. The converter narrows 64-bit integers and floats to 32 bits, which its
kernels compute faster; where an input or a result of a method is of 64 bits it keeps them, for then
the caller meant them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compiler.export import example_inputs
from compiler.ir.constants import constant_bytes
from compiler.ir.graph import Graph
from compiler.target import Lowered
from targets.failure import as_unsupported
from targets.litert import PROGRAM
from targets.litert.capability import unsupported
from targets.litert.delegation import delegation, shared_bytes
from targets.litert.dynamic import dynamic_weights, with_codes
from targets.litert.legalise import QUANTIZED, legalise
from targets.litert.origins import TracedGraph
from targets.plain import flat, refuse_large, refuse_open_sizes, refuse_state
from targets.quiet import quiet_native
from targets.serving import write
from targets.stopwatch import rounded, timed

LARGEST = 2**31 - 1  # bytes of one flatbuffer
WIDE = (torch.int64, torch.float64)


def lower(methods: Mapping[str, Graph], folder: Path) -> Lowered:
    """Write `model.tflite` and `io.json` for a program of these methods into `folder`.

    The report holds `operations` (of the interpreter, with counts, most frequent first), `delegates`,
    `delegated_ops`, `outside_ops`, `outside` (ops that the delegate leaves to LiteRT's own kernels, each
    with count and method), the same numbers and `constant_bytes` for each of `methods`,
    `program_bytes`, `shared_bytes` and `seconds` by stage. Raises UnsupportedModelError naming the
    node the SDK failed at, where it says.
    """
    for graph in methods.values():
        refuse_state(graph, "the program that litert-torch writes")
        refuse_open_sizes(graph, "litert-torch")
        refuse_large(graph, LARGEST, "one flatbuffer")
    seconds: dict[str, float] = {}
    with timed(seconds, "convert"), quiet_native():
        model = convert({name: flat(legalise(graph)) for name, graph in methods.items()})
        if weights := {key: w for graph in methods.values() for key, w in dynamic_weights(graph).items()}:
            model = with_codes(model, weights)
    with timed(seconds, "load"), quiet_native():
        facts = delegation(model, methods)
    stored = {n: {**facts["methods"][n], "constant_bytes": constant_bytes([g])} for n, g in methods.items()}
    sizes = {
        "methods": stored,
        "shared_bytes": shared_bytes(model) if len(methods) > 1 else 0,
        "program_bytes": len(model),
    }
    files = write(folder, PROGRAM, model, methods)
    return Lowered(files, {**facts, **sizes, "seconds": rounded(seconds)})


def convert(methods: Mapping[str, Graph]) -> bytes:
    """Return the flatbuffer of flat graphs, one signature each."""
    from litert_torch import Converter

    converter = Converter()
    for name, graph in methods.items():
        converter.add_signature(name, TracedGraph(graph), tuple(example_inputs(graph)))
    wide = any(_wide(graph) for graph in methods.values())
    quantized = any(_quantized(graph) for graph in methods.values())
    first = next(iter(methods.values()))
    with as_unsupported("LiteRT", "converting with litert-torch", first, None, unsupported):
        made = converter.convert(enable_x64=wide, quant_config=_static_int8() if quantized else None)
        return bytes(made.model_content())


def _wide(graph: Graph) -> bool:
    types = [n.type for n in graph.inputs()] + [graph.type_of(v) for _, v in graph.output.values()]
    return any(type_.dtype in WIDE for type_ in types)


def _quantized(graph: Graph) -> bool:
    return any(node.op.startswith(QUANTIZED) for node in graph.ops())


def _static_int8() -> Any:
    """Return what tells the converter that explicit q/dq pairs are kernels in int8."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    marked = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    return QuantConfig(pt2e_quantizer=marked)
