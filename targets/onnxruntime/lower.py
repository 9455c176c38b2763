"""Graph -> `model.onnx`: export, translate, let the runtime optimise it once, report.

The file holds the model as translated: what the runtime makes of it when it loads depends on the
processor it finds there. The report counts the operations it makes of it here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.export import export_graph, symbol_sizes
from compiler.ir.constants import constant_bytes
from compiler.ir.dims import resolve
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, TensorType
from targets.onnxruntime import IO, PROGRAM
from targets.onnxruntime.failure import as_unsupported
from targets.onnxruntime.quiet import quiet

LARGEST = 2**31 - 1  # bytes of one protobuf message
SILENT = 4  # severity: fatal


@dataclass(frozen=True)
class LoweredProgram:
    """The files written, the program first, and JSON-ready facts about them."""

    files: tuple[str, ...]
    report: Mapping[str, object]


def lower(graph: Graph, method: str, folder: Path) -> LoweredProgram:
    """Write `model.onnx` and `io.json` for a graph, the method of that name, into `folder`.

    The report holds `operations` (those of the runtime's optimised graph, with counts, most
    frequent first), `delegates`, `delegated_ops`, `outside` and `outside_ops` (the CPU provider runs
    all of a model or refuses it, so nothing is outside), `program_bytes` and `seconds` by stage.
    Raises UnsupportedModelError naming the node the SDK failed at, where it says.
    """
    _check(graph)
    seconds: dict[str, float] = {}
    with _timed(seconds, "export"):
        program = export_graph(_tensors_only(graph))
    with _timed(seconds, "translate"), quiet(), as_unsupported(program, graph, "translating to ONNX"):
        model = _translated(program)
    with _timed(seconds, "optimise"), as_unsupported(program, graph, "loading the model"):
        operations = optimised_operations(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(model)
    (folder / IO).write_text(json.dumps(_io(graph, method), indent=1) + "\n", encoding="utf-8")
    total = sum(operations.values())
    counts = {"delegates": 1, "delegated_ops": total, "outside_ops": 0}
    facts = {**counts, "outside": [], "methods": {method: counts}, "operations": operations}
    rounded = {stage: round(value, 3) for stage, value in seconds.items()}
    return LoweredProgram((PROGRAM, IO), {**facts, "program_bytes": len(model), "seconds": rounded})


def optimised_operations(model: bytes) -> dict[str, int]:
    """Return the operations of the runtime's optimised graph on this machine, with counts."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        path = Path(folder) / PROGRAM
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(str(path), load_external_data=False).graph.node
    counts = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _translated(program: ExportedProgram) -> bytes:
    # The exporter's optimiser folds what its own translation leaves behind, shape arithmetic above all.
    made = torch.onnx.export(program, dynamo=True, optimize=True, verbose=False)
    assert made is not None
    return bytes(made.model_proto.SerializeToString())


def _tensors_only(graph: Graph) -> Graph:
    """Return the graph with those of its results that are tensors: an ONNX file has no others."""
    results = [value for _, value in graph.output.values()]
    if len(results) == len(graph.output.operands):
        return graph
    editor = Editor(graph)
    operands = tuple((f"r{i}", value) for i, value in enumerate(results))
    editor.update(dataclasses.replace(graph.output, operands=operands))
    made = editor.finish()
    made.signature = dataclasses.replace(made.signature, out_spec="")  # it folds all results
    return made


def _check(graph: Graph) -> None:
    """Raise UnsupportedModelError for what an ONNX file cannot hold."""
    if writes := graph.writes():
        raise UnsupportedModelError(
            f"at node {writes[0].name!r}: the model keeps a state between calls, a session of ONNX Runtime "
            "does not; make the state an input and an output"
        )
    if (size := constant_bytes([graph])) > LARGEST:
        raise UnsupportedModelError(
            f"the weights take {size} bytes, one ONNX file holds at most {LARGEST}; split the model"
        )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _io(graph: Graph, method: str) -> dict[str, object]:
    sizes = symbol_sizes(graph)

    def spec(name: str, type_: TensorType) -> dict[str, object]:
        shape = [int(resolve(d, sizes)) for d in type_.shape]
        return {"name": name, "shape": shape, "dtype": str(type_.dtype).removeprefix("torch.")}

    inputs = [spec(n.name, n.type) for n in graph.inputs()]
    outputs = [spec(v.node, graph.type_of(v)) for _, v in graph.output.values()]
    calls = {method: {"inputs": inputs, "outputs": outputs}}
    return {"schema": "edgewright.onnxruntime.io/1", "methods": calls}
