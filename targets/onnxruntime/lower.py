"""Graph -> `model.onnx`: export, translate, let the runtime optimise it once, report.

The file holds the model as translated: what the runtime makes of it when it loads depends on the
processor it finds there. The report counts the operations it makes of it here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from torch.export import ExportedProgram

from compiler.export import export_graph
from compiler.ir.graph import Graph
from compiler.target import Lowered
from targets.failure import as_unsupported
from targets.onnx_file import onnx_bytes, origins
from targets.onnxruntime import PROGRAM
from targets.onnxruntime.capability import unsupported
from targets.onnxruntime.legalise import legalise
from targets.onnxruntime.own_constants import with_own_constants
from targets.plain import refuse_large, refuse_state, tensors_only
from targets.quiet import quiet
from targets.serving import write
from targets.stopwatch import rounded, timed

LARGEST = 2**31 - 1  # bytes of one protobuf message
SILENT = 4  # severity: fatal
EXACT_INT8 = ("session.x64quantprecision", "1")  # as the runner says


def failing(doing: str, graph: Graph, program: ExportedProgram) -> AbstractContextManager[None]:
    """Say a failure of the exporter or the runtime in the user's terms."""
    return as_unsupported("ONNX Runtime", doing, graph, program, unsupported)


def lower(graph: Graph, method: str, folder: Path) -> Lowered:
    """Write `model.onnx` and `io.json` for a graph, the method of that name, into `folder`.

    The report holds `operations` (those of the runtime's optimised graph, with counts, most
    frequent first), `delegates`, `delegated_ops`, `outside` and `outside_ops` (the CPU provider runs
    all of a model or refuses it, so nothing is outside), `program_bytes` and `seconds` by stage.
    Raises UnsupportedModelError naming the node the SDK failed at, where it says.
    """
    refuse_state(graph, "a session of ONNX Runtime")
    refuse_large(graph, LARGEST, "one ONNX file")
    seconds: dict[str, float] = {}
    with timed(seconds, "export"):
        program = export_graph(tensors_only(legalise(graph)))
    with timed(seconds, "translate"), quiet(), failing("translating to ONNX", graph, program):
        model = with_own_constants(onnx_bytes(program))
    with timed(seconds, "optimise"), failing("loading the model", graph, program):
        operations = optimised_operations(model)
    files = write(folder, PROGRAM, model, {method: graph}, origins=origins(model, program))
    total = sum(operations.values())
    counts = {"delegates": 1, "delegated_ops": total, "outside_ops": 0}
    facts = {**counts, "outside": [], "methods": {method: counts}, "operations": operations}
    return Lowered(files, {**facts, "program_bytes": len(model), "seconds": rounded(seconds)})


def optimised_operations(model: bytes) -> dict[str, int]:
    """Return the operations of the runtime's optimised graph on this machine, with counts."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*EXACT_INT8)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        path = Path(folder) / PROGRAM
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(str(path), load_external_data=False).graph.node
    counts = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
