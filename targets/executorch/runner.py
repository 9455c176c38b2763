"""Runs one method of an ExecuTorch program on request: the device's side of the runner protocol.

This script is pushed to a device and imports nothing of edgewright. It speaks one JSON document
a line: requests on stdin, answers on stdout, everything the SDK prints on stderr.

    {"event": "ready", "load_ns": .., "first_ns": .., "threads": ..}     said once, unasked
    {"do": "time", "iterations": n}             -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "time_for", "seconds": s, "min": 3}  -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "infer", "inputs": [file, ..], "outputs": folder} -> {"outputs": [{"path", "shape", "dtype"}, ..]}
    {"do": "exit"}
    any failure                                 -> {"error": "..."}

Input files hold raw little-endian elements in row-major order. Timing surrounds `execute` alone:
the program is lowered with unplanned inputs, so that the runtime reads the caller's memory and
no iteration can overwrite what the next one reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


def main() -> int:
    """Load the program, say ready, and answer requests until `exit` or the end of stdin."""
    parser = argparse.ArgumentParser(description="ExecuTorch runner of the edgewright runner protocol")
    parser.add_argument("program")
    parser.add_argument("io")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", help="the method to run; the program's first one by default")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the SDK prints from C++ or Python must not mix with the answers
    try:
        method = Method(arguments.program, arguments.io, arguments.threads, arguments.method)
    except Exception as error:
        say(answers, {"error": describe(error)})
        return 1
    say(answers, method.ready)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            if request.get("do") == "exit":
                break
            answer = method.answer(request)
        except Exception as error:  # the protocol carries every failure to the caller
            answer = {"error": describe(error)}
        say(answers, answer)
    return 0


def say(stream: TextIO, message: dict[str, object]) -> None:
    """Write one answer and flush it."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def describe(error: Exception) -> str:
    """Return one line that says what failed."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Method:
    """A loaded method of a program, with its inputs made once."""

    def __init__(self, program: str, io: str, threads: int, name: str | None) -> None:
        """Load a method on `threads` threads and run it once; ValueError where there is none of that name."""
        import torch

        # The C++ module itself: `portable_lib` and `executorch.runtime` would import the whole
        # export stack for a warning class, which doubles the start.
        from executorch.extension.pybindings import _portable_lib as runtime

        torch.set_num_threads(threads)
        self.torch: Any = torch
        document = json.loads(Path(io).read_text(encoding="utf-8"))
        known = document["methods"]
        name = next(iter(known)) if name is None else name
        if name not in known:
            raise ValueError(f"the program has no method {name!r}; it has {', '.join(known)}")
        self.io = known[name]
        if any(kernel.startswith("quantized_decomposed::") for kernel in document.get("kernels", ())):
            import executorch.kernels.quantized  # noqa: F401  (registers the kernels)
        # The pool must be resized before the program loads: XNNPACK keeps the pool it is made with.
        runtime._unsafe_reset_threadpool(threads)
        start = time.perf_counter_ns()
        self.program = runtime._load_program(program)
        self.method = self.program.load_method(name)
        load_ns = time.perf_counter_ns() - start
        self.set_inputs([self.made(spec) for spec in self.io["inputs"]])
        start = time.perf_counter_ns()
        self.method.execute()
        first_ns = time.perf_counter_ns() - start
        count = runtime._threadpool_get_thread_count()
        self.ready = {"event": "ready", "load_ns": load_ns, "first_ns": first_ns, "threads": count}

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        """Return the answer to one request; ValueError for one that is not in the protocol."""
        do = request.get("do")
        if do == "time":
            count = int(request["iterations"])
            return self.timed(lambda done, _: done >= count)
        if do == "time_for":
            budget, least = int(float(request["seconds"]) * 1e9), int(request.get("min", 3))
            return self.timed(lambda done, spent: done >= least and spent >= budget)
        if do == "infer":
            return self.infer(request["inputs"], Path(request["outputs"]))
        raise ValueError(f"unknown request {do!r}; expected time, time_for, infer or exit")

    def timed(self, enough: Callable[[int, int], bool]) -> dict[str, object]:
        """Execute until `enough(iterations, nanoseconds spent)`, timing each execution."""
        execute, wall_clock, cpu_clock = self.method.execute, time.perf_counter_ns, time.process_time_ns
        wall: list[int] = []
        cpu: list[int] = []
        start = wall_clock()
        while not enough(len(wall), wall_clock() - start):
            cpu_before, wall_before = cpu_clock(), wall_clock()
            execute()
            wall_after, cpu_after = wall_clock(), cpu_clock()
            wall.append(wall_after - wall_before)
            cpu.append(cpu_after - cpu_before)
        return {"wall_ns": wall, "cpu_ns": cpu}

    def infer(self, files: list[str], folder: Path) -> dict[str, object]:
        """Run once on inputs read from files and write each output to a file of `folder`."""
        specs = self.io["inputs"]
        if len(files) != len(specs):
            raise ValueError(f"the program takes {len(specs)} inputs, got {len(files)} files")
        made = self.inputs
        try:
            self.set_inputs([self.read(path, spec) for path, spec in zip(files, specs, strict=True)])
            self.method.execute()
            results = [self.write(folder, i, out) for i, out in enumerate(self.method.get_outputs())]
        finally:
            self.set_inputs(made)
        return {"outputs": results}

    def set_inputs(self, tensors: list[Any]) -> None:
        """Give the method its inputs; they stay alive here, for the runtime reads them in place."""
        self.inputs = tensors
        self.method.set_inputs(tensors)

    def made(self, spec: dict[str, Any]) -> Any:
        """Return a seeded input: normal for floats, zeros otherwise (a valid index anywhere)."""
        dtype = getattr(self.torch, spec["dtype"])
        if not dtype.is_floating_point:
            return self.torch.zeros(spec["shape"], dtype=dtype)
        generator = self.torch.Generator().manual_seed(0)
        return self.torch.randn(spec["shape"], generator=generator).to(dtype)

    def read(self, path: str, spec: dict[str, Any]) -> Any:
        """Return the tensor in a raw file; ValueError where its size is not the input's."""
        data = bytearray(Path(path).read_bytes())
        dtype = getattr(self.torch, spec["dtype"])
        expected = dtype.itemsize
        for size in spec["shape"]:
            expected *= size
        if len(data) != expected:
            raise ValueError(f"input {spec['name']!r} takes {expected} bytes, {path} holds {len(data)}")
        return self.torch.frombuffer(data, dtype=dtype).reshape(spec["shape"])

    def write(self, folder: Path, index: int, output: Any) -> dict[str, object]:
        """Write one output as raw bytes and say where, of what shape and dtype."""
        if not isinstance(output, self.torch.Tensor):
            output = self.torch.tensor(output)
        path = folder / f"output{index}.bin"
        flat = output.detach().contiguous().reshape(-1).view(self.torch.uint8)
        path.write_bytes(flat.numpy().tobytes())
        dtype = str(output.dtype).removeprefix("torch.")
        return {"path": str(path), "shape": list(output.shape), "dtype": dtype}


if __name__ == "__main__":
    sys.exit(main())
