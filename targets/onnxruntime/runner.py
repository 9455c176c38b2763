"""One ONNX model, for `targets/serving/serve.py` on a device.

Inputs and outputs are bound once, so that timing surrounds the session's run alone, without a copy
in or an allocation of what comes out. Worker threads stop spinning when a run ends: between the
rounds of one runner they would burn the processor of the next.
"""

from __future__ import annotations

from typing import Any

import onnxruntime


class Method:
    """The loaded session of a model."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load the model on `threads` threads; it has one method."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def bind(self, arrays: list[Any]) -> None:
        """Give the session its inputs, which it reads in place."""
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
