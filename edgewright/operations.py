"""`profile --per-op`: what each operation of a program takes, in the words of the user's model.

The runtime times its own operations, on whatever device its runner is; the IO file beside the program
says which nodes of the graph each came from, and the artifact's graph which module of the model. Timing
each operation slows the whole: the sum is no latency, the shares are what counts.

ONNX Runtime and TVM tell; ExecuTorch's and LiteRT's Python packages have no times by operation. What
a device's runner says decides, so that a runner that learns to tell is heard at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError, UsageError
from compiler.ir.text import parse_graph
from compiler.records import Artifact
from compiler.target import Target
from devices import open_device
from devices.lease import lease
from devices.runner import start_runner
from edgewright.artifact import method_entry, read_artifact
from edgewright.limits import on_cluster
from edgewright.recipe import resolve
from edgewright.stages import Progress, silent
from targets.serving import IO

SCHEMA = "edgewright.operations/1"
ITERATIONS = 50
TELLING = ("onnxruntime", "tvm")
UNABLE = ("gives no times by operation", "unknown request")  # what a runner says that cannot


def profile_operations(
    artifact: Artifact | str | Path,
    device: str = "local",
    *,
    profile: str | DeviceProfile | None = None,
    method: str | None = None,
    iterations: int = ITERATIONS,
    cluster: str | None = None,
    wait_s: float | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the time of each operation of a method as JSON values, slowest first.

    `operations` holds the runtime's `name` and kind `op`, the IR `nodes` that it computes where they are
    known, of these the heaviest, `node`, with its `module`, and `median_ns` over `iterations` inferences
    with its `share` of the sum. An emulated board counts: there it is `median_instructions` and
    `sum_instructions`.

    Raises UsageError for an artifact or method that there is not, and for a runtime that gives no times
    by operation; DeviceError where the device or the runner fails, or where the device is still in use
    after `wait_s` seconds (by default it is waited for as long as it takes).
    """
    built = artifact if isinstance(artifact, Artifact) else read_artifact(artifact)
    target, found = resolve(profile or str(built.manifest["profile"]), str(built.manifest["target"]))
    name = str(method_entry(built, method)["name"])
    found = on_cluster(found, cluster)
    opened = open_device(device)
    with lease(opened, wait_s=wait_s, progress=progress):
        operations: Any = _ask(opened, target, built, found, name, iterations)["operations"]
    unit = _unit(operations)
    median_unit = f"median_{unit}"
    rows = _rows(operations, unit, _origins(built), _modules(built, name))
    total = sum(row[median_unit] for row in rows)
    for row in rows:
        row["share"] = row[median_unit] / total if total else 0.0
    return {
        "schema": SCHEMA,
        "model": str(built.manifest["model"]),
        "method": name,
        "target": target.name,
        "device": device,
        "iterations": iterations,
        f"sum_{unit}": total,
        "operations": sorted(rows, key=lambda row: -row[median_unit]),
    }


def _ask(
    device: Device, target: Target, artifact: Artifact, profile: DeviceProfile, method: str, iterations: int
) -> dict[str, Any]:
    session = start_runner(device, target.run_spec(artifact, profile, method), profile.affinity)
    try:
        return session.request({"do": "profile", "iterations": iterations})
    except DeviceError as error:
        if any(words in str(error) for words in UNABLE):
            raise UsageError(
                f"the target {target.name!r} on {device.name} gives no times by operation: {error}. Those of "
                f"{' and '.join(TELLING)} do: compile for one of them, or profile the whole without --per-op"
            ) from error
        raise
    finally:
        session.close()


def _unit(operations: Any) -> str:
    """Return what the rows tell: `ns`, or `instructions` on an emulated board."""
    return "instructions" if any("instructions" in its for its in operations) else "ns"


def _rows(
    operations: Any, unit: str, origins: Mapping[str, list[str]], modules: Mapping[str, str]
) -> list[dict[str, Any]]:
    rows = []
    for its in operations:
        nodes = _origin(str(its["name"]), origins)
        node = nodes[0] if nodes else ""
        facts = {"name": its["name"], "op": its["op"], "node": node, "nodes": nodes}
        facts["module"] = modules.get(node, "")
        rows.append({**facts, f"median_{unit}": float(median(its[unit]))})
    return rows


def _origin(name: str, origins: Mapping[str, list[str]]) -> list[str]:
    """Return the nodes behind a name; a runtime puts its own words behind the one it was given."""
    while name and name not in origins:
        name = name.rpartition("_")[0]
    return origins.get(name, [])


def _origins(artifact: Artifact) -> dict[str, list[str]]:
    """Return the nodes of each name; of a fused operation they are several, the heaviest first."""
    document = json.loads((artifact.folder / IO).read_text(encoding="utf-8"))
    found: dict[str, str | list[str]] = document.get("origins", {})
    return {name: [nodes] if isinstance(nodes, str) else nodes for name, nodes in found.items()}


def _modules(artifact: Artifact, method: str) -> dict[str, str]:
    graph = parse_graph((artifact.folder / f"graph_{method}.txt").read_text(encoding="utf-8"))
    return {node.name: node.origin for node in graph.ops()}
