"""What every runner does around the one runtime it knows, and how it is started.

`serve.py` is pushed to a device beside a target's own `runner.py`; it is never imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compiler.device import DeviceProfile
from compiler.ir.dims import hint
from compiler.ir.graph import Graph, TensorType
from compiler.records import Artifact, RunSpec

IO = "io.json"
SCHEMA = "edgewright.io/1"
SERVE = Path(__file__).parent / "serve.py"


def served(
    artifact: Artifact,
    profile: DeviceProfile,
    runtime: str,
    runner: Path,
    files: tuple[str, ...],
    method: str | None,
) -> RunSpec:
    """Return how to serve a method of an artifact, the first one by default, with the profile's threads.

    `runtime` is what `runner` imports, by the target's name. `files` are the artifact's own, the program
    first; the rest must lie beside it.
    """
    program, *rest = files
    pushed = {"serve": SERVE, "runner": runner, "program": artifact.folder / program}
    pushed |= {"io": artifact.folder / IO, **{name: artifact.folder / name for name in rest}}
    command = ("{python}", "{serve}", "{runner}", "{program}", "{io}", "--threads", str(profile.threads))
    return RunSpec(pushed, command if method is None else (*command, "--method", method), runtime=runtime)


def write(
    folder: Path, program: str, data: bytes, methods: Mapping[str, Graph], **facts: object
) -> tuple[str, str]:
    """Write a program and its IO file: how each method is called, and `facts` that the runner needs.

    Returns the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"schema": SCHEMA, "methods": calls(methods), **facts}
    (folder / program).write_bytes(data)
    (folder / IO).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return program, IO


def calls(methods: Mapping[str, Graph]) -> dict[str, object]:
    """Return the flat inputs and outputs of each method, JSON-ready; symbols take their example size."""
    return {name: _call(graph) for name, graph in methods.items()}


def _call(graph: Graph) -> dict[str, object]:
    def spec(name: str, type_: TensorType) -> dict[str, object]:
        shape = [hint(graph, d) for d in type_.shape]
        return {"name": name, "shape": shape, "dtype": str(type_.dtype).removeprefix("torch.")}

    inputs = [spec(n.name, n.type) for n in graph.inputs()]
    return {"inputs": inputs, "outputs": [spec(v.node, graph.type_of(v)) for _, v in graph.output.values()]}
