"""One TVM library, for `targets/serving/serve.py` on a device; threads come from TVM_NUM_THREADS."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import tvm
from tvm import relax


class Method:
    """The main function of a library in a virtual machine."""

    def __init__(self, program: str, document: dict[str, Any], name: str, threads: int) -> None:
        """Load the library; it has one method."""
        self.specs = document["methods"][name]["outputs"]
        self.machine = relax.VirtualMachine(tvm.runtime.load_module(program), tvm.cpu())
        self.main = self.machine["main"]
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

    def profile(self, iterations: int) -> list[dict[str, Any]]:
        """Return the times of each call of a kernel, in order, without the machine's own calls.

        A kernel's second call in an inference is told from the first by its name, `kernel#2`.
        """
        rows: dict[str, dict[str, Any]] = {}
        calls: Counter[str] = Counter()
        started = 0

        def instrument(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> Any:
            nonlocal started
            if before:
                started = time.perf_counter_ns()
            elif not name.startswith("vm."):
                taken = time.perf_counter_ns() - started
                calls[name] += 1
                call = name if calls[name] == 1 else f"{name}#{calls[name]}"
                rows.setdefault(call, {"name": call, "op": name, "ns": []})["ns"].append(taken)
            return relax.VMInstrumentReturnKind.NO_OP

        self.machine.set_instrument(instrument)
        for _ in range(iterations):
            calls.clear()
            self.run()
        self.machine.set_instrument(None)
        return list(rows.values())
