"""Program and layout -> `model.c`: tables alone, for the hand-written C of this folder (model.h)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from targets.tvm.static.layout import Layout
from targets.tvm.static.program import Call, Kind, Program, Tensor

CODES = {
    "bool": "kDLBool",
    "int": "kDLInt",
    "uint": "kDLUInt",
    "float": "kDLFloat",
    "bfloat": "kDLBfloat",
}
SYMBOL = "__tvm_ffi_{}"  # what TVM's code generator calls a kernel


def emit(program: Program, layout: Layout, method: str, inputs: Sequence[str]) -> str:
    """Return the text of `model.c` for a method of that name, its inputs of those names."""
    parts = [
        '#include "model.h"',
        f"const char model_method[] = {_text(method)};",
        f"const char model_weights[] = {_text(layout.digest)};",
        _table("const uint64_t model_segments[]", (f"{layout.sizes[kind]}u" for kind in Kind)),
        *_tensors(program, layout),
        *_kernels(program),
        *_ports(program, inputs),
    ]
    return "\n".join(parts) + "\n"


def _tensors(program: Program, layout: Layout) -> list[str]:
    sizes = [number for t in program.tensors for number in (*t.shape, *t.strides)]
    starts = [0]
    for tensor in program.tensors:
        starts.append(starts[-1] + 2 * len(tensor.shape))
    rows = (_tensor(tensor, start) for tensor, start in zip(program.tensors, starts[:-1], strict=True))
    places = (
        f"{{{program.storages[t.storage].kind}, {layout.offsets[t.storage]}u}}" for t in program.tensors
    )
    return [
        _table("static int64_t sizes[]", map(str, sizes)),
        f"const int model_tensor_count = {len(program.tensors)};",
        _table("DLTensor model_tensors[]", rows),
        _table("const struct place model_places[]", places),
    ]


def _tensor(tensor: Tensor, start: int) -> str:
    rank = len(tensor.shape)
    shape, strides = f"sizes + {start}", f"sizes + {start + rank}"
    return f"{{0, {{kDLCPU, 0}}, {rank}, {_dtype(tensor.dtype)}, {shape}, {strides}, 0}}"


def _dtype(dtype: str) -> str:
    kind = dtype.rstrip("0123456789")
    bits = int(dtype.removeprefix(kind) or 8)
    return f"{{{CODES[kind]}, {bits}, 1}}"


def _kernels(program: Program) -> list[str]:
    names = program.kernels
    declared = [f"extern kernel {SYMBOL.format(name)};" for name in names]
    rows = (f"{{{_text(name)}, {SYMBOL.format(name)}}}" for name in names)
    arguments = (str(tensor) for call in program.calls for tensor in call.arguments)
    return [
        *declared,
        f"const int model_kernel_count = {len(names)};",
        _table("const struct named_kernel model_kernels[]", rows),
        f"const int model_argument_count = {sum(len(call.arguments) for call in program.calls)};",
        _table("const int model_arguments[]", arguments),
        f"const int model_call_count = {len(program.calls)};",
        _table("const struct call model_calls[]", _calls(program.calls, names)),
    ]


def _calls(calls: Sequence[Call], names: Sequence[str]) -> list[str]:
    number = {name: index for index, name in enumerate(names)}
    rows, first = [], 0
    for call in calls:
        rows.append(f"{{{number[call.kernel]}, {first}, {len(call.arguments)}}}")
        first += len(call.arguments)
    return rows


def _ports(program: Program, inputs: Sequence[str]) -> list[str]:
    outputs = [f"output{i}" for i in range(len(program.outputs))]
    return [
        f"const int model_input_count = {len(program.inputs)};",
        _table("const struct port model_inputs[]", _port(program, program.inputs, inputs)),
        f"const int model_output_count = {len(program.outputs)};",
        _table("const struct port model_outputs[]", _port(program, program.outputs, outputs)),
    ]


def _port(program: Program, tensors: Sequence[int], names: Sequence[str]) -> list[str]:
    return [
        f"{{{_text(name)}, {_text(program.tensors[tensor].dtype)}, {tensor}}}"
        for tensor, name in zip(tensors, names, strict=True)
    ]


def _table(declared: str, rows: Iterable[str]) -> str:
    """Return an array's definition; C has no empty arrays, so that one of no rows holds a zero."""
    return f"{declared} = {{\n" + "".join(f"    {row},\n" for row in rows or ()) + "    {0}\n};"


def _text(name: str) -> str:
    return json.dumps(name)
