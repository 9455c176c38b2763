"""Kernels as programs of their own, lowered by the target that will run the model.

Folders are named by what the program is made from, and its weights are seeded, so that the same
kernel is the same artifact in every run and an interrupted measurement finds its rounds again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compiler.compress.half import to_half
from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.compress.quantize_dynamic import quantize_dynamic
from compiler.compress.quantize_int4 import quantize_int4
from compiler.cost.composite import Composite, composite_graph
from compiler.cost.kernel import Kernel, kernel_graph
from compiler.cost.program import WholeProgram
from compiler.cost.quantized import Quantized
from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError
from compiler.ir.digest import content_digest
from compiler.ir.dims import hint
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, TensorType
from compiler.ir.verify import verify
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.target import FLOAT16, FORWARD, INT4, INT8_DYNAMIC, Target, refuse_precision
from devices.benchmark import Candidate
from devices.database import MeasurementDatabase
from devices.latency import CHAINS, Conditions, chain_label, conditions
from devices.runner import start_runner
from edgewright.artifact import files_digest

SCHEMA = "edgewright.kernel/1"
# No runtime folds a chain of these into one, as it would of additions or of ReLUs.
TINY = "aten.sigmoid.default"
RANGE_BATCHES = 2  # of drawn inputs, which give an int8 kernel its ranges: its time does not depend on them


@dataclass(frozen=True)
class Bench:
    """Where kernels are lowered and measured: `folder` holds the programs, `database` the readings."""

    target: Target
    profile: DeviceProfile
    device: Device
    database: MeasurementDatabase
    folder: Path

    def conditions(self) -> Conditions:
        """Return what the readings of this bench share."""
        return conditions(self.device, self.target, self.profile)


def kernel_candidate(kernel: Kernel, bench: Bench) -> Candidate:
    """Lower a kernel and return it as something to measure, labelled by its text.

    Raises UnsupportedModelError where the target does not take it.
    """
    return _candidate(kernel.text, _graph(kernel, bench.target), bench)


def _graph(kernel: Kernel, target: Target) -> Graph:
    if isinstance(kernel, WholeProgram):
        return kernel.graph
    if isinstance(kernel, Quantized):
        return quantized_graph(kernel, target)
    return composite_graph(kernel) if isinstance(kernel, Composite) else kernel_graph(kernel)


def quantized_graph(kernel: Quantized, target: Target, seed: int = 0) -> Graph:
    """Return a kernel as the target's quantizer makes it, its ranges read from inputs drawn by `seed`.

    Raises UnsupportedModelError where the target has no such kernel.
    """
    graph = kernel_graph(kernel.of, seed)
    names = frozenset(node.name for node in graph.ops())
    refuse_precision(kernel.precision, target.precisions, target.name)
    if kernel.precision == FLOAT16:
        return to_half(graph, names)
    if kernel.precision == INT4:
        return quantize_int4(graph, names, target.rounds_rows)
    quantizer = target.quantizer(ir_filter(names), kernel.precision)
    if kernel.precision == INT8_DYNAMIC:
        return quantize_dynamic(graph, names, quantizer, target.rounds_rows)
    generator = torch.Generator().manual_seed(seed)
    shapes = [tuple(hint(graph, d) for d in node.type.shape) for node in graph.inputs()]
    batches = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(RANGE_BATCHES)]
    return quantize_int8(graph, names, quantizer, batches)


def chain_candidates(bench: Bench) -> Mapping[int, Candidate]:
    """Lower the chains of tiny operations that tell the fixed cost of a call, by length."""
    return {length: _candidate(chain_label(length), chain_graph(length), bench) for length in CHAINS}


def chain_graph(length: int) -> Graph:
    """Return a graph of `length` operations on one element, each reading the one before."""
    editor, type_ = Editor(), TensorType((1, 1), torch.float32)
    value = editor.input("x", type_)
    for _ in range(length):
        value = editor.op(TINY, {"self": value}, (type_,))
    editor.output([value])
    graph = editor.finish()
    verify(graph)
    return graph


def start_failure(candidate: Candidate, bench: Bench) -> str | None:
    """Return why a program does not start on the device, None where it does."""
    try:
        start_runner(bench.device, candidate.spec, bench.profile.affinity).close()
    except DeviceError as error:
        return str(error)
    return None


def _candidate(label: str, graph: Graph, bench: Bench) -> Candidate:
    target, plan = bench.target, Plan()
    manifest = _lowered(label, graph, bench)
    artifact = Artifact(bench.folder / manifest["folder"], manifest)
    return Candidate(
        label=label,
        artifact_digest=artifact.digest,
        graph_digest=manifest["graph_digest"],
        plan_digest=plan.digest(),
        spec=target.run_spec(artifact, bench.profile),
        plan=plan.text(),
        target={"target": target.name, **target.versions()},
    )


def _lowered(label: str, graph: Graph, bench: Bench) -> dict[str, Any]:
    digest = content_digest(graph)
    identity = "\n".join([label, digest, bench.profile.digest(), bench.target.name])
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = bench.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    lowered = bench.target.lower({FORWARD: graph}, bench.profile, folder)
    return {
        "schema": SCHEMA,
        "folder": name,
        "model": label,
        "target": bench.target.name,
        "profile": bench.profile.name,
        "files": list(lowered.files),
        "versions": dict(bench.target.versions()),
        "graph_digest": digest,
        "artifact_digest": files_digest(folder, lowered.files),
    }
