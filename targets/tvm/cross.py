"""A checked Relax module -> files for the processor a profile states, and a twin for this machine.

Two routes, and the first that the module has is taken:

    static  an executable of the kernels alone (`targets/tvm/static/`); shapes are known, one thread
    vm      `model.so` for the Python runner with TVM's own runtime on the device

The twin comes from the same source and is what can be verified here; the program for another
processor has not run when it is written, and the report says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.tvm import LIBRARY_TWIN, PROGRAM
from targets.tvm.processor import Processor, this_machine
from targets.tvm.static import EXECUTABLE, TWIN, WEIGHTS
from targets.tvm.static.emit import emit
from targets.tvm.static.layout import Layout, lay_out
from targets.tvm.static.link import build_kernels, link, zig
from targets.tvm.static.program import Kind, Program, Refusal
from targets.tvm.static.relax_reader import read_program


@dataclass(frozen=True)
class Route:
    """The files of a program by name, the program first, and facts for the report."""

    files: Mapping[str, bytes]
    facts: Mapping[str, object]


def cross_compile(
    fused: Any, method: str, inputs: Sequence[str], threads: int, processor: Processor, library: bytes
) -> Route:
    """Return a fused module's program for a processor; `library` is this machine's."""
    verified = "program" if processor.runs_here() else "twin"
    facts = {"arch": processor.arch, "cpu": processor.cpu, "verified": verified}
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        try:
            route = _static(fused, method, inputs, threads, processor, Path(name))
        except Refusal as refusal:
            route = _library(fused, processor, library, str(refusal), Path(name))
    return Route(route.files, {**facts, **route.facts})


def _static(
    fused: Any, method: str, inputs: Sequence[str], threads: int, processor: Processor, folder: Path
) -> Route:
    if threads > 1:
        raise Refusal(f"a static executable runs one thread, the profile asks for {threads}")
    program = read_program(fused)
    layout = lay_out(program)
    tables = folder / "model.c"
    tables.write_text(emit(program, layout, method, inputs), encoding="utf-8")
    processors = {EXECUTABLE: processor}
    if not processor.runs_here():
        processors[TWIN] = this_machine()
    built = {n: _executable(fused, program, tables, p, folder / n) for n, p in processors.items()}
    return Route({**built, WEIGHTS: layout.weights}, _sizes(layout, built[EXECUTABLE]))


def _executable(fused: Any, program: Program, tables: Path, processor: Processor, path: Path) -> bytes:
    objects = [path.with_name(f"{path.name}.o")] if program.kernels else []
    for kernels in objects:
        build_kernels(fused, program.kernels, processor, kernels)
    link(objects, tables, processor, path)
    return path.read_bytes()


def _sizes(layout: Layout, executable: bytes) -> dict[str, object]:
    return {
        "route": "static",
        "arena_bytes": layout.sizes[Kind.SCRATCH],
        "executable_bytes": len(executable),
        "weights_bytes": len(layout.weights),
    }


def _library(fused: Any, processor: Processor, library: bytes, reason: str, folder: Path) -> Route:
    facts = {"route": "vm", "static_refused": reason}
    if processor == this_machine():
        return Route({PROGRAM: library}, facts)
    twin = {} if processor.runs_here() else {LIBRARY_TWIN: library}
    return Route({PROGRAM: _linked(fused, processor, folder / PROGRAM), **twin}, facts)


def _linked(fused: Any, processor: Processor, path: Path) -> bytes:
    import tvm

    system = "linux-gnu"  # what the wheels of TVM's runtime are built for

    def shared(name: str, objects: Sequence[str], **_: object) -> None:
        zig(processor.triple(system), "-shared", "-O2", "-s", "-w", *objects, "-o", name)

    tvm.compile(fused, target=processor.target(system)).export_library(str(path), fcompile=shared)
    return path.read_bytes()
