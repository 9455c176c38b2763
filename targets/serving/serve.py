"""Runs one method of a program on request: the device's side of the runner protocol.

    python serve.py RUNNER PROGRAM IO --threads N [--method NAME]

This script is pushed to a device and imports nothing of edgewright. RUNNER is a Python file beside
it that knows one runtime, as a class

    Method(program, document, name, threads)    loads the method `name`; `document` is the parsed IO file
        bind(arrays)                            takes the inputs, one numpy array for each
        run()                                   one inference, and nothing else: it is what is timed
        outputs() -> [(array, dtype name), ..]  what the last inference returned
        threads                                 optional: the threads it uses, counted here otherwise
        profile(iterations)                     optional: [{"name", "op", "ns": [..]}, ..], a row an operation

It speaks one JSON document a line: requests on stdin, answers on stdout, everything the SDK prints
on stderr (`devices/runner_protocol.md`).

    {"event": "ready", "load_ns": .., "first_ns": .., "threads": ..}     said once, unasked
    {"do": "time", "iterations": n}             -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "time_for", "seconds": s, "min": 3}  -> {"wall_ns": [..], "cpu_ns": [..]}
    {"do": "profile", "iterations": n}          -> {"operations": [{"name", "op", "ns": [..]}, ..]}
    {"do": "count", "iterations": n}            -> {"iterations": n}, each between two calls of getppid
    {"do": "memory"}                            -> {"peak_rss_bytes": n}
    {"do": "infer", "inputs": [file, ..], "outputs": folder} -> {"outputs": [{"path", "shape", "dtype"}, ..]}
                    optional: "shapes", one for each input, where a size is not that of the IO file
    {"do": "exit"}
    any request with "check": a number         -> its answer ends in "crc32", as the ready line does
    any failure                                 -> {"error": "..."}

Input files hold raw little-endian elements in row-major order. numpy has no bfloat16: such a tensor
travels as its bits, in uint16.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy

TASKS = Path("/proc/self/task")
STATUS = Path("/proc/self/status")
BITS = "bfloat16"
REQUESTS = ("time", "time_for", "profile", "count", "memory", "infer", "exit")


def main() -> int:
    """Load the method, say ready, and answer requests until `exit` or the end of stdin."""
    parser = argparse.ArgumentParser(description="the device's side of the edgewright runner protocol")
    parser.add_argument("runner")
    parser.add_argument("program")
    parser.add_argument("io")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", help="the method to run; the program's first one by default")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the SDK prints from C++ or Python must not mix with the answers
    try:
        served = Served(
            arguments.runner, arguments.program, arguments.io, arguments.threads, arguments.method
        )
    except Exception as error:
        say(answers, {"error": describe(error)}, None)
        return 1
    say(answers, served.ready, "")
    for line in sys.stdin:
        if not line.strip():
            continue
        checked = False
        try:
            request = json.loads(line)
            checked = "check" in request
            if request.get("do") == "exit":
                break
            answer = served.answer(request)
        except Exception as error:  # the protocol carries every failure to the caller
            answer = {"error": describe(error)}
        say(answers, answer, line.rstrip("\n") if checked else None)
    return 0


def say(stream: TextIO, message: dict[str, object], asked: str | None) -> None:
    """Write one answer and flush it, with the check of it and of what was asked unless that is None."""
    text = json.dumps(message)
    if asked is not None:
        body = text.removesuffix("}")
        text = f'{body}, "crc32": "{zlib.crc32((asked + body).encode()):08x}"}}'
    stream.write(text + "\n")
    stream.flush()


def describe(error: Exception) -> str:
    """Return one line that says what failed."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Served:
    """The loaded method of a program, with its inputs made once."""

    def __init__(self, runner: str, program: str, io: str, threads: int, name: str | None) -> None:
        """Load a method on `threads` threads and run it once; ValueError where there is none of that name."""
        document = json.loads(Path(io).read_text(encoding="utf-8"))
        known = document["methods"]
        name = next(iter(known)) if name is None else name
        if name not in known:
            raise ValueError(f"the program has no method {name!r}; it has {', '.join(known)}")
        self.specs = known[name]["inputs"]
        runtime = load_runner(runner)
        running = task_count()
        start = time.perf_counter_ns()
        self.method = runtime.Method(program, document, name, threads)
        load_ns = time.perf_counter_ns() - start
        used = task_count() - running + 1 if running else threads
        self.bind([made(spec) for spec in self.specs])
        start = time.perf_counter_ns()
        self.method.run()
        first_ns = time.perf_counter_ns() - start
        used = getattr(self.method, "threads", used)
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
        if do == "count":
            return self.counted(int(request["iterations"]))
        if do == "memory":
            return {"peak_rss_bytes": peak_rss_bytes()}
        if do == "infer":
            return self.infer(request["inputs"], request.get("shapes"), Path(request["outputs"]))
        if do == "profile":
            if not hasattr(self.method, "profile"):
                raise ValueError("the runtime's Python package gives no times by operation")
            return {"operations": self.method.profile(int(request["iterations"]))}
        raise ValueError(f"unknown request {do!r}; expected {', '.join(REQUESTS)}")

    def timed(self, enough: Callable[[int, int], bool]) -> dict[str, object]:
        """Run until `enough(iterations, nanoseconds spent)`, timing each run."""
        run, wall_clock, cpu_clock = self.method.run, time.perf_counter_ns, time.process_time_ns
        wall: list[int] = []
        cpu: list[int] = []
        start = wall_clock()
        while not enough(len(wall), wall_clock() - start):
            cpu_before, wall_before = cpu_clock(), wall_clock()
            run()
            wall_after, cpu_after = wall_clock(), cpu_clock()
            wall.append(wall_after - wall_before)
            cpu.append(cpu_after - cpu_before)
        return {"wall_ns": wall, "cpu_ns": cpu}

    def counted(self, iterations: int) -> dict[str, object]:
        """Run each inference between two calls of getppid, which an emulator's instruction counter sees."""
        run, mark = self.method.run, os.getppid
        gc.collect()
        gc.disable()  # a collection within one of them would be counted as its own
        try:
            for _ in range(iterations):
                mark()
                run()
                mark()
        finally:
            gc.enable()
        return {"iterations": iterations}

    def infer(self, files: list[str], shapes: list[list[int]] | None, folder: Path) -> dict[str, object]:
        """Run once on inputs read from files and write each output to a file of `folder`."""
        shapes = [spec["shape"] for spec in self.specs] if shapes is None else shapes
        for what in (files, shapes):
            if len(what) != len(self.specs):
                raise ValueError(f"the program takes {len(self.specs)} inputs, got {len(what)}")
        before = self.arrays
        try:
            self.bind([read(*one) for one in zip(files, self.specs, shapes, strict=True)])
            self.method.run()
            results = [write(folder, i, *output) for i, output in enumerate(self.method.outputs())]
        finally:
            self.bind(before)
        return {"outputs": results}

    def bind(self, arrays: list[Any]) -> None:
        """Give the method its inputs; they stay alive here, for a runtime may read them in place."""
        self.arrays = arrays
        self.method.bind(arrays)


def load_runner(path: str) -> Any:
    """Return the module in a file, which a device may have pushed under any name."""
    spec = importlib.util.spec_from_file_location("runner", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(spec: dict[str, Any]) -> Any:
    """Return a seeded input: normal for floats, zeros otherwise (a valid index anywhere)."""
    shape, dtype = spec["shape"], spec["dtype"]
    if dtype != BITS and numpy.dtype(dtype).kind != "f":
        return numpy.zeros(shape, dtype)
    normal = numpy.random.default_rng(0).standard_normal(shape).astype(numpy.float32)
    if dtype == BITS:
        return (numpy.atleast_1d(normal).view(numpy.uint32) >> 16).astype(numpy.uint16).reshape(shape)
    return normal.astype(dtype)


def read(path: str, spec: dict[str, Any], shape: list[int]) -> Any:
    """Return the array of that shape in a raw file; ValueError where the file's size is not the shape's."""
    data = bytearray(Path(path).read_bytes())
    dtype = numpy.dtype("uint16" if spec["dtype"] == BITS else spec["dtype"])
    expected = dtype.itemsize * math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"input {spec['name']!r} takes {expected} bytes, {path} holds {len(data)}")
    return numpy.frombuffer(data, dtype).reshape(shape)


def write(folder: Path, index: int, array: Any, dtype: str) -> dict[str, object]:
    """Write one output as raw bytes and say where, of what shape and dtype."""
    path = folder / f"output{index}.bin"
    path.write_bytes(array.tobytes())
    return {"path": str(path), "shape": list(array.shape), "dtype": dtype}


def task_count() -> int:
    """Return the number of this process's threads, 0 where the system does not tell."""
    return sum(1 for _ in TASKS.iterdir()) if TASKS.is_dir() else 0


def peak_rss_bytes() -> int:
    """Return the most memory this process has had resident; ValueError where the system does not tell."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text() if STATUS.exists() else "", re.MULTILINE)
    if found is None:
        raise ValueError("the system does not tell a process its peak memory (VmHWM in /proc/self/status)")
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
