"""Runs one ONNX model on request: the device's side of the runner protocol.

This script is pushed to a device and imports nothing of edgewright. It speaks one JSON document
a line: requests on stdin, answers on stdout, everything the SDK prints on stderr.

    {"event": "ready", "load_ns": .., "first_ns": .., "threads": ..}     said once, unasked
    {"do": "time", "iterations": n}             -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "time_for", "seconds": s, "min": 3}  -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "infer", "inputs": [file, ..], "outputs": folder} -> {"outputs": [{"path", "shape", "dtype"}, ..]}
    {"do": "exit"}
    any failure                                 -> {"error": "..."}

Input files hold raw little-endian elements in row-major order. Inputs and outputs are bound once, so
that timing surrounds the session's run alone, without a copy in or an allocation of what comes out.
Worker threads stop spinning when a run ends: between the rounds of one runner they would burn the
processor of the next.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

TASKS = Path("/proc/self/task")


def main() -> int:
    """Load the model, say ready, and answer requests until `exit` or the end of stdin."""
    parser = argparse.ArgumentParser(description="ONNX Runtime runner of the edgewright runner protocol")
    parser.add_argument("program")
    parser.add_argument("io")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", help="the method to run; a program has one")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the SDK prints from C++ or Python must not mix with the answers
    try:
        model = Model(arguments.program, arguments.io, arguments.threads, arguments.method)
    except Exception as error:
        say(answers, {"error": describe(error)})
        return 1
    say(answers, model.ready)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            if request.get("do") == "exit":
                break
            answer = model.answer(request)
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


class Model:
    """The loaded session of a model, with its inputs made once."""

    def __init__(self, program: str, io: str, threads: int, name: str | None) -> None:
        """Load the model on `threads` threads and run it once; ValueError where its method is another."""
        import numpy
        import onnxruntime

        self.numpy: Any = numpy
        [(known, self.io)] = json.loads(Path(io).read_text(encoding="utf-8"))["methods"].items()
        if name not in (None, known):
            raise ValueError(f"the program has no method {name!r}; it has {known}")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        running = task_count()
        start = time.perf_counter_ns()
        self.session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
        load_ns = time.perf_counter_ns() - start
        used = task_count() - running + 1 if running else threads
        self.bind([self.made(spec) for spec in self.io["inputs"]])
        start = time.perf_counter_ns()
        self.session.run_with_iobinding(self.binding)
        first_ns = time.perf_counter_ns() - start
        self.ready = {"event": "ready", "load_ns": load_ns, "first_ns": first_ns, "threads": used}

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
        """Run until `enough(iterations, nanoseconds spent)`, timing each run."""
        run, binding = self.session.run_with_iobinding, self.binding
        wall_clock, cpu_clock = time.perf_counter_ns, time.process_time_ns
        wall: list[int] = []
        cpu: list[int] = []
        start = wall_clock()
        while not enough(len(wall), wall_clock() - start):
            cpu_before, wall_before = cpu_clock(), wall_clock()
            run(binding)
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
            self.bind([self.read(path, spec) for path, spec in zip(files, specs, strict=True)])
            self.session.run_with_iobinding(self.binding)
            found = self.binding.copy_outputs_to_cpu()
            results = [self.write(folder, i, array) for i, array in enumerate(found)]
        finally:
            self.bind(made)
        return {"outputs": results}

    def bind(self, arrays: list[Any]) -> None:
        """Give the session its inputs; they stay alive here, for the runtime reads them in place."""
        self.inputs = arrays
        self.binding = self.session.io_binding()
        for value, array in zip(self.session.get_inputs(), arrays, strict=True):
            self.binding.bind_cpu_input(value.name, array)
        for value in self.session.get_outputs():
            self.binding.bind_output(value.name)

    def made(self, spec: dict[str, Any]) -> Any:
        """Return a seeded input: normal for floats, zeros otherwise (a valid index anywhere)."""
        dtype = self.numpy.dtype(spec["dtype"])
        if dtype.kind != "f":
            return self.numpy.zeros(spec["shape"], dtype)
        return self.numpy.random.default_rng(0).standard_normal(spec["shape"]).astype(dtype)

    def read(self, path: str, spec: dict[str, Any]) -> Any:
        """Return the array in a raw file; ValueError where its size is not the input's."""
        data = Path(path).read_bytes()
        dtype = self.numpy.dtype(spec["dtype"])
        expected = dtype.itemsize * math.prod(spec["shape"])
        if len(data) != expected:
            raise ValueError(f"input {spec['name']!r} takes {expected} bytes, {path} holds {len(data)}")
        return self.numpy.frombuffer(data, dtype).reshape(spec["shape"])

    def write(self, folder: Path, index: int, array: Any) -> dict[str, object]:
        """Write one output as raw bytes and say where, of what shape and dtype."""
        path = folder / f"output{index}.bin"
        path.write_bytes(array.tobytes())
        return {"path": str(path), "shape": list(array.shape), "dtype": str(array.dtype)}


def task_count() -> int:
    """Return the number of this process's threads, 0 where the system does not tell."""
    return sum(1 for _ in TASKS.iterdir()) if TASKS.is_dir() else 0


if __name__ == "__main__":
    sys.exit(main())
