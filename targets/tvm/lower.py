"""Graph -> files: import into Relax, build with LLVM for this machine, look at what it computes.

For a profile that states a processor the checked module goes on to `targets/tvm/cross.py`.

TVM has two importers, and each knows operations that the other does not: that of exported programs,
then that of ONNX files. Some compile and compute something else without a word (grid_sample in
TVM 0.26), so that each is run once on seeded inputs and must agree with the graph before it is taken.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.device import DeviceProfile
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.export import example_inputs, export_graph
from compiler.ir.constants import constant_bytes
from compiler.ir.graph import Graph
from compiler.target import Lowered
from targets.failure import as_unsupported
from targets.plain import flat, refuse_state
from targets.quiet import quiet_native
from targets.serving import write
from targets.stopwatch import rounded, timed
from targets.tvm import PROGRAM
from targets.tvm.capability import unsupported
from targets.tvm.cross import Route, cross_compile
from targets.tvm.importing import IMPORTERS, Imported
from targets.tvm.legalise import legalise
from targets.tvm.origins import Fusion, origins
from targets.tvm.processor import stated
from targets.tvm.static import EXECUTABLE, TWIN
from targets.tvm.tuning.apply import apply
from targets.tvm.tuning.kernels import call_sites

AGREES = 1e-2  # of the largest result; the artifact's verification judges closely
LEAST = 1e-6


@dataclass(frozen=True)
class Built:
    """A module that agrees with the graph: who imported it, why others did not, its kernels."""

    importer: str
    refused: dict[str, str]
    kernels: dict[str, int]
    fused: Any
    tuned: tuple[str, ...]
    imported: Imported
    fusion: Fusion


def lower(
    graph: Graph, method: str, profile: DeviceProfile, folder: Path, schedules: Mapping[str, str]
) -> Lowered:
    """Write the program's files and `io.json` for a graph, the method of that name, into `folder`.

    Kernels whose key is in `schedules` get theirs, the others TVM's defaults.

    The report holds `tuned` (whether any kernel has a schedule of its own) and `tuned_kernels` (how many
    of how many), `importer`, `refused` (why an earlier importer was not taken), `kernels` (fused kernels,
    with counts), `delegates`, `delegated_ops`, `outside`, `outside_ops` (all is compiled, so nothing is
    outside), `program_bytes`, `constant_bytes`, `seconds` by stage and the `route`: `vm` or, for a profile
    that states its processor, also `static`, then with `arch`, `cpu`, what was `verified` here (the `program`
    or its `twin`), `arena_bytes`, `executable_bytes`, `weights_bytes`, or why not, `static_refused`.
    Raises UnsupportedModelError naming the node the SDK failed at, where it says.
    """
    plain, seconds = _plain(graph), dict[str, float]()
    with timed(seconds, "export"):
        program = export_graph(plain)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name, quiet_native():
        library = Path(name) / PROGRAM
        built = _build(plain, program, library, schedules, seconds)
        route = _routed(built, plain, method, profile, library.read_bytes(), seconds)
    counts = {"delegates": 1, "delegated_ops": sum(built.kernels.values()), "outside_ops": 0}
    facts = {**counts, "outside": [], "methods": {method: counts}, "kernels": built.kernels}
    tuned = {"tuned": len(built.tuned), "of": len(built.kernels)}
    facts |= {"tuned": bool(built.tuned), "tuned_kernels": tuned}
    origin = {"importer": built.importer, "refused": built.refused, **route.facts}
    name, data = next(iter(route.files.items()))
    sizes = {"program_bytes": len(data), "constant_bytes": constant_bytes([plain])}
    told = origins(built.imported, built.fusion, {n.name for n in graph.ops()})
    files = (*write(folder, name, data, {method: graph}, origins=told), *_write_rest(folder, route.files))
    return Lowered(files, {**facts, **origin, **sizes, "seconds": rounded(seconds)})


def fused_module(graph: Graph) -> Any:
    """Return the fused Relax module that `lower` compiles for a graph; raises what `lower` raises."""
    plain = _plain(graph)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name, quiet_native():
        return _build(plain, export_graph(plain), Path(name) / PROGRAM, {}, {}).fused


def _plain(graph: Graph) -> Graph:
    refuse_state(graph, "a library of TVM's")
    return flat(legalise(graph))


def _routed(
    built: Built,
    graph: Graph,
    method: str,
    profile: DeviceProfile,
    library: bytes,
    seconds: dict[str, float],
) -> Route:
    """Return the files for the profile's processor; this machine's library where it states none.

    Raises UsageError for a processor that LLVM does not know.
    """
    if profile.arch is None:
        return Route({PROGRAM: library}, {"route": "vm"})
    processor, inputs = stated(profile), [n.name for n in graph.inputs()]
    doing = f"compiling for {processor.arch}"
    with timed(seconds, "cross"), as_unsupported("TVM", doing, graph, None, unsupported):
        return cross_compile(built.fused, method, inputs, profile.threads, processor, library)


def _write_rest(folder: Path, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Write all files but the first, and let the system start those that are executables."""
    _, *rest = files
    for name in rest:
        (folder / name).write_bytes(files[name])
    for name in {EXECUTABLE, TWIN} & set(files):
        (folder / name).chmod(0o755)
    return tuple(rest)


def _build(
    graph: Graph,
    program: ExportedProgram,
    library: Path,
    schedules: Mapping[str, str],
    seconds: dict[str, float],
) -> Built:
    """Write the library by the first importer whose program agrees."""
    refused: dict[str, str] = {}
    for name, read in IMPORTERS.items():
        try:
            with timed(seconds, "import"):
                imported = read(program)
            with timed(seconds, "build"):
                fusion, fused, tuned = _compiled(imported.module, library, schedules)
            with timed(seconds, "check"):
                _check(graph, library)
        except Exception as found:  # an importer raises whatever it stumbles on
            refused[name] = " ".join(str(found).split())[:120] or type(found).__name__
            continue
        return Built(name, refused, _kernels(fused), fused, tuned, imported, fusion)
    with as_unsupported("TVM", "importing", graph, program, unsupported):
        raise UnsupportedModelError("; ".join(f"by way of {name}: {why}" for name, why in refused.items()))


def _compiled(
    module: Any, library: Path, schedules: Mapping[str, str]
) -> tuple[Fusion, Any, tuple[str, ...]]:
    """Build for this machine's processor; return the module that is built, and the names of the tuned."""
    import tvm
    from tvm.target.codegen import llvm_get_system_cpu

    target = tvm.target.Target({"kind": "llvm", "mcpu": str(llvm_get_system_cpu())})
    with target:
        fusion = fuse(module)
        fused, tuned = apply(fusion.fused, schedules)
    tvm.compile(fused, target=target).export_library(str(library))
    return fusion, fused, tuned


def fuse(module: Any) -> Fusion:
    """Return the stages of TVM's "zero" pipeline for a module, under the current target."""
    from tvm.ir.transform import Sequential
    from tvm.relax import transform

    flat = Sequential([transform.LegalizeOps(), transform.AnnotateTIROpPattern(), transform.FoldConstant()])(
        module
    )
    grouped = transform.FuseOps()(flat)
    return Fusion(flat, grouped, transform.FuseTIR()(grouped))


def _kernels(fused: Any) -> dict[str, int]:
    """Return the kernels of a fused module with how often they are called."""
    return dict(Counter({name: count for name, (_, count, _) in call_sites(fused).items()}).most_common())


def _check(graph: Graph, library: Path) -> None:
    """Raise UnsupportedModelError where the library does not compute what the graph does."""
    import tvm
    from tvm import relax

    inputs = example_inputs(graph)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(t.numpy()) for t in inputs])
    found = [result] if hasattr(result, "numpy") else list(result)
    for index, (y, expected) in enumerate(zip(found, evaluate(graph, inputs), strict=True)):
        assert isinstance(expected, torch.Tensor)
        _agrees(index, torch.from_numpy(y.numpy()), expected)


def _agrees(index: int, y: torch.Tensor, expected: torch.Tensor) -> None:
    if y.shape != expected.shape:
        raise UnsupportedModelError(
            f"it returns shape {tuple(y.shape)} for output {index} in place of {tuple(expected.shape)}"
        )
    if y.dtype != expected.dtype:
        raise UnsupportedModelError(
            f"it returns {_name(y.dtype)} for output {index} in place of {_name(expected.dtype)}"
        )
    wide = expected.double()
    finite = torch.isfinite(wide)
    if not torch.equal(finite, torch.isfinite(y)):
        raise UnsupportedModelError(f"it computes output {index} with infinities or NaN in other places")
    if not (wanted := wide[finite]).numel():
        return
    scale, error = float(wanted.abs().max()), float((y.double()[finite] - wanted).abs().max())
    if error > AGREES * max(scale, LEAST):
        raise UnsupportedModelError(f"it computes output {index} wrong by {error:.3g} of {scale:.3g}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
