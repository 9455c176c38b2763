"""One ONNX model, for `targets/serving/serve.py` on a device.

Inputs and outputs are bound once, so that timing surrounds the session's run alone, without a copy
in or an allocation of what comes out. Worker threads stop spinning when a run ends: between the
rounds of one runner they would burn the processor of the next.

Unsigned times signed bytes saturate a 16-bit sum on x86 without VNNI (AVX2, AVX512). There the runtime
is told to make weights unsigned when it loads them, which is exact; elsewhere that changes nothing.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

TIMED = "_kernel_time"


class Method:
    """The loaded session of a model."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load the model on `threads` threads; it has one method."""
        self.program = program
        self.options = options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def bind(self, arrays: list[Any]) -> None:
        """Give the session its inputs, which it reads in place."""
        self.arrays = arrays
        self.binding = self.session.io_binding()
        for value, array in zip(self.session.get_inputs(), arrays, strict=True):
            self.binding.bind_cpu_input(value.name, array)
        for value in self.session.get_outputs():
            self.binding.bind_output(value.name)

    def run(self) -> None:
        """Run the session once."""
        self.session.run_with_iobinding(self.binding)

    def outputs(self) -> list[tuple[Any, str]]:
        """Return the last results."""
        return [(array, str(array.dtype)) for array in self.binding.copy_outputs_to_cpu()]

    def profile(self, iterations: int) -> list[dict[str, Any]]:
        """Return the times of each operation in a session of its own, which writes them down."""
        with tempfile.TemporaryDirectory() as folder:
            self.options.enable_profiling = True
            self.options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(self.program, self.options, ["CPUExecutionProvider"])
            self.options.enable_profiling = False
            feed = {i.name: a for i, a in zip(session.get_inputs(), self.arrays, strict=True)}
            for _ in range(iterations):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        rows: dict[str, dict[str, Any]] = {}
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith(TIMED):
                name = event["name"].removesuffix(TIMED)
                row = rows.setdefault(name, {"name": name, "op": event["args"]["op_name"], "ns": []})
                row["ns"].append(int(event["dur"]) * 1000)
        return list(rows.values())
