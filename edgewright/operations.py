"""`profile --per-op`: what each operation of a program takes, in the words of the user's model.

The runtime times its own operations, on whatever device its runner is; the IO file beside the program
says which node of the graph each came from, and the artifact's graph which module of the model. Timing
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

from compiler.device import DeviceProfile
from compiler.errors import DeviceError, UsageError
from compiler.ir.text import parse_graph
from compiler.records import Artifact, Metric
from devices import open_device
from devices.runner import start_runner
from edgewright.artifact import method_entry, read_artifact
from edgewright.limits import on_cluster
from edgewright.recipe import resolve
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
) -> dict[str, Any]:
    """Return the time of each operation of a method as JSON values, slowest first.

    `operations` holds the runtime's `name` and kind `op`, the IR `node` and its `module` where they are
    known, `median_ns` over `iterations` inferences and its `share` of the sum. A `clock` that is
    `emulated` tells what an emulator took: no time of any device, and its shares are the emulator's.

    Raises UsageError for an artifact or method that there is not, and for a runtime that gives no times
    by operation; DeviceError where the device or the runner fails.
    """
    built = artifact if isinstance(artifact, Artifact) else read_artifact(artifact)
    target, found = resolve(profile or str(built.manifest["profile"]), str(built.manifest["target"]))
    name = str(method_entry(built, method)["name"])
    found = on_cluster(found, cluster)
    session = start_runner(open_device(device), target.run_spec(built, found, name), found.affinity)
    try:
        answer = session.request({"do": "profile", "iterations": iterations})
    except DeviceError as error:
        if any(words in str(error) for words in UNABLE):
            raise UsageError(
                f"the target {target.name!r} on {device} gives no times by operation: {error}. Those of "
                f"{' and '.join(TELLING)} do: compile for one of them, or profile the whole without --per-op"
            ) from error
        raise
    finally:
        session.close()
    rows = _rows(answer["operations"], _origins(built), _modules(built, name))
    total = sum(row["median_ns"] for row in rows)
    for row in rows:
        row["share"] = row["median_ns"] / total if total else 0.0
    return {
        "schema": SCHEMA,
        "model": str(built.manifest["model"]),
        "method": name,
        "target": target.name,
        "device": device,
        "iterations": iterations,
        "clock": "emulated" if found.protocol.metric is Metric.INSTRUCTIONS else "device",
        "sum_ns": total,
        "operations": sorted(rows, key=lambda row: -row["median_ns"]),
    }


def _rows(operations: Any, origins: Mapping[str, str], modules: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for its in operations:
        node = _origin(str(its["name"]), origins)
        facts = {"name": its["name"], "op": its["op"], "node": node, "module": modules.get(node, "")}
        rows.append({**facts, "median_ns": float(median(its["ns"]))})
    return rows


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """Return the node behind a name; a runtime puts its own words behind the one it was given."""
    while name and name not in origins:
        name = name.rpartition("_")[0]
    return origins.get(name, "")


def _origins(artifact: Artifact) -> dict[str, str]:
    document = json.loads((artifact.folder / IO).read_text(encoding="utf-8"))
    found: dict[str, str] = document.get("origins", {})
    return found


def _modules(artifact: Artifact, method: str) -> dict[str, str]:
    graph = parse_graph((artifact.folder / f"graph_{method}.txt").read_text(encoding="utf-8"))
    return {node.name: node.origin for node in graph.ops()}
