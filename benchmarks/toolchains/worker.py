"""The part of the benchmark that runs in a tool's own environment; it imports nothing but the tool.

    worker.py build TOOL PATTERN FOLDER     compile both forms; print counts and errors as JSON
    worker.py serve TOOL PATTERN FOLDER     speak devices/runner_protocol.md for a compiled form

PATTERN is a folder of `patterns.py`; FOLDER holds what the tool made of it, a folder a form for
`build`, that form's folder for `serve`. The tool is the module `tool_TOOL` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from program import Program

FORMS = ("stock", "ours")
THREADS = 1


def build(tool: Any, pattern: Path, folder: Path) -> dict[str, Any]:
    """Compile both forms and return versions, and operations and error of each form."""
    report: dict[str, Any] = {"versions": {name: version(name) for name in tool.PACKAGES}}
    data = np.load(pattern / "data.npz")
    for form in FORMS:
        place = folder / form
        place.mkdir(parents=True, exist_ok=True)
        found = tool.build(pattern / f"{form}.{tool.SOURCE}", place)
        program = tool.load(place, data["x"], THREADS)
        program.step()
        report[form] = {
            "count": sum(found[name] for name in tool.COUNTED),
            "operations": {k: n for k, n in sorted(found.items()) if k not in tool.MOVES},
            "max_error": error(program.output(), data["reference"]),
        }
    return report


def error(output: Any, reference: Any) -> float:
    """Return the largest absolute difference over the largest absolute reference."""
    if output.shape != reference.shape:
        raise ValueError(f"the output has shape {output.shape}, the reference {reference.shape}")
    return float(np.abs(output.astype(np.float64) - reference).max() / np.abs(reference).max())


def serve(program: Program, load_ns: int, answers: TextIO) -> None:
    """Say ready and answer timing requests until `exit` or the end of stdin."""
    say(answers, {"event": "ready", "load_ns": load_ns, "threads": program.threads})
    for line in filter(str.strip, sys.stdin):
        request = json.loads(line)
        if request["do"] == "exit":
            return
        if request["do"] == "time":
            say(answers, timed(program.step, int(request["iterations"])))
        else:
            say(answers, {"error": f"unknown request {request['do']!r}; expected time or exit"})


def timed(step: Callable[[], Any], iterations: int) -> dict[str, list[int]]:
    """Time each of so many inferences."""
    wall: list[int] = []
    cpu: list[int] = []
    for _ in range(iterations):
        cpu_before, wall_before = time.process_time_ns(), time.perf_counter_ns()
        step()
        wall_after, cpu_after = time.perf_counter_ns(), time.process_time_ns()
        wall.append(wall_after - wall_before)
        cpu.append(cpu_after - cpu_before)
    return {"wall_ns": wall, "cpu_ns": cpu}


def say(stream: TextIO, message: dict[str, Any]) -> None:
    """Write one JSON line and flush it."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def main() -> None:
    """Do what was asked, with stdout kept for the answers."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("do", choices=("build", "serve"))
    parser.add_argument("tool")
    parser.add_argument("pattern", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # SDKs print from C++
    tool = import_module(f"tool_{arguments.tool}")
    if arguments.do == "build":
        say(answers, build(tool, arguments.pattern, arguments.folder))
        return
    start = time.perf_counter_ns()
    program = tool.load(arguments.folder, np.load(arguments.pattern / "data.npz")["x"], THREADS)
    serve(program, time.perf_counter_ns() - start, answers)


if __name__ == "__main__":
    main()
