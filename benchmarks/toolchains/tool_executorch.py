"""ExecuTorch on XNNPACK: nodes of the graphs serialised for the delegate, and kernels outside it.

Stock and merged programs are lowered by the same call, `to_edge_transform_and_lower` with the
XNNPACK partitioner; edgewright's own lowering is not used. Inputs are left out of the memory plan,
so that the runtime reads the caller's memory.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import deserialize_pte_binary
from program import Floats, Program

SOURCE = "pt2"
PACKAGES = ("executorch",)
NODES = {"XNNConv2d", "XNNDepthwiseConv2d", "XNNConvTranspose2d", "XNNFullyConnected"}
KERNELS = {"aten::convolution", "aten::linear", "aten::addmm", "aten::mm", "aten::bmm"}
COUNTED = frozenset(NODES | {"XNNBatchMatrixMultiply"} | KERNELS)
MOVES = frozenset({"XNNStaticTranspose", "XNNStaticReshape", "aten::view_copy", "aten::permute_copy"})


def build(source: Path, folder: Path) -> Counter[str]:
    """Lower; return how often each XNNPACK node and each portable kernel is left."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    edge = to_edge_transform_and_lower(torch.export.load(source), partitioner=[XnnpackPartitioner()])
    planning = MemoryPlanningPass(alloc_graph_input=False)
    buffer = bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)
    (folder / "model.pte").write_bytes(buffer)
    return Counter(_operations(deserialize_pte_binary(buffer).program))


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Load the program on a pool of `threads` threads, which XNNPACK keeps."""
    from executorch.extension.pybindings import _portable_lib as runtime

    torch.set_num_threads(threads)
    runtime._unsafe_reset_threadpool(threads)
    program = runtime._load_program(str(folder / "model.pte"))
    method = program.load_method("forward")
    inputs = [torch.from_numpy(x)]
    method.set_inputs(inputs)

    def output() -> Floats:
        found: Floats = method.get_outputs()[0].numpy().copy()
        return found

    count = int(runtime._threadpool_get_thread_count())
    return Program(method.execute, output, count, owned=(program, inputs))


def _operations(program: Any) -> Iterator[str]:
    plan = program.execution_plan[0]
    for chain in plan.chains:
        for call in (instruction.instr_args for instruction in chain.instructions):
            if hasattr(call, "op_index"):
                yield plan.operators[call.op_index].name
            elif hasattr(call, "delegate_index"):
                place = plan.delegates[call.delegate_index].processed.index
                yield from _nodes(bytes(program.backend_delegate_data[place].data))


def _nodes(payload: bytes) -> Iterator[str]:
    """Yield the node types of a serialised XNNPACK graph, through ExecuTorch's own schema."""
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    schema = files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
    with tempfile.TemporaryDirectory() as folder, as_file(schema) as path:
        graph = Path(folder) / "graph.bin"
        graph.write_bytes(payload[start : start + header.flatbuffer_size])
        _flatc_decompile(folder, str(path), str(graph), ["--raw-binary"])
        document = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
    for node in document["xnodes"]:
        yield node["xnode_union_type"]
