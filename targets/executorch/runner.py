"""One method of an ExecuTorch program, for `targets/serving/serve.py` on a device.

The program is lowered with unplanned inputs, so that the runtime reads the caller's memory and no
iteration can overwrite what the next one reads.
"""

from __future__ import annotations

from typing import Any

import torch

# The C++ module itself: `portable_lib` and `executorch.runtime` would import the whole export stack
# for a warning class, which doubles the start.
from executorch.extension.pybindings import _portable_lib as runtime


class Method:
    """A loaded method of a program."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load a method on `threads` threads."""
        torch.set_num_threads(threads)
        self.specs = document["methods"][name]["inputs"]
        if any(kernel.startswith("quantized_decomposed::") for kernel in document.get("kernels", ())):
            import executorch.kernels.quantized  # noqa: F401  (registers the kernels)
        # The pool must be resized before the program loads: XNNPACK keeps the pool it is made with.
        runtime._unsafe_reset_threadpool(threads)
        self.program = runtime._load_program(program)
        self.method = self.program.load_method(name)
        self.threads = runtime._threadpool_get_thread_count()
        self.run = self.method.execute

    def bind(self, arrays: list[Any]) -> None:
        """Give the method its inputs; the runtime reads them in place."""
        self.inputs = [self.tensor(a, spec) for a, spec in zip(arrays, self.specs, strict=True)]
        self.method.set_inputs(self.inputs)

    def outputs(self) -> list[tuple[Any, str]]:
        """Return the last results; bfloat16 as its bits."""
        return [self.array(output) for output in self.method.get_outputs()]

    def tensor(self, array: Any, spec: dict[str, Any]) -> Any:
        """Return the tensor over an array's memory."""
        made = torch.from_numpy(array)
        return made.view(torch.bfloat16) if spec["dtype"] == "bfloat16" else made

    def array(self, output: Any) -> tuple[Any, str]:
        """Return an output and the name of its dtype."""
        if not isinstance(output, torch.Tensor):
            output = torch.tensor(output)
        dtype = str(output.dtype).removeprefix("torch.")
        plain = output.detach().contiguous()
        return (plain.view(torch.uint16) if dtype == "bfloat16" else plain).numpy(), dtype
