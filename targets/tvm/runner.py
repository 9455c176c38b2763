"""One TVM library, for `targets/serving/serve.py` on a device; threads come from TVM_NUM_THREADS."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax


class Method:
    """The main function of a library in a virtual machine."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load the library; it has one method."""
        self.specs = document["methods"][name]["outputs"]
        machine = relax.VirtualMachine(tvm.runtime.load_module(program), tvm.cpu())
        self.main = machine["main"]
        self.threads = tvm.runtime.num_threads()

    def bind(self, arrays: list[Any]) -> None:
        """Copy the inputs into the runtime's memory."""
        self.inputs = [tvm.runtime.tensor(array) for array in arrays]

    def run(self) -> None:
        """Run the function once."""
        self.result = self.main(*self.inputs)

    def outputs(self) -> list[tuple[Any, str]]:
        """Return the last results."""
        single = hasattr(self.result, "numpy")
        arrays = [r.numpy() for r in ([self.result] if single else self.result)]
        return [(a, spec["dtype"]) for a, spec in zip(arrays, self.specs, strict=True)]
