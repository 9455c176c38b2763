"""Lowers stored graphs in a process of its own, so that several variants lower at once.

Jobs come on stdin and answers go to stdout, one JSON document a line; what SDKs print goes to
stderr. The process ends with its stdin, and so with the search that started it.

    {"graph": file, "folder": path, "target": name, "profile": {...}}
    -> {"files": [...], "report": {...}}      or {"error": text, "unsupported": bool}
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.device import BenchmarkProtocol, Cluster, DeviceProfile, Memory
from compiler.errors import UnsupportedModelError
from compiler.preflight import Level, Preflight
from compiler.records import Metric
from compiler.target import FORWARD


def profile_document(profile: DeviceProfile) -> dict[str, Any]:
    """Return a profile as JSON values."""
    return asdict(profile)


def read_profile(document: Mapping[str, Any]) -> DeviceProfile:
    """Return the profile that `profile_document` wrote."""
    fields = dict(document)
    protocol = {**fields.pop("protocol"), "metric": Metric(document["protocol"]["metric"])}
    fields |= {key: tuple(fields[key]) for key in ("targets", "affinity", "isa")}
    fields["clusters"] = tuple(Cluster(**{**c, "cpus": tuple(c["cpus"])}) for c in fields["clusters"])
    fields["memory"] = Memory(**fields["memory"]) if fields["memory"] else None
    fields["preflight"] = _preflight(fields["preflight"])
    return DeviceProfile(**fields, protocol=BenchmarkProtocol(**protocol))


def _preflight(document: Mapping[str, Any]) -> Preflight:
    levels = {key: Level(value) for key, value in document.items() if value in list(Level)}
    return Preflight(**{**document, "governors": tuple(document["governors"]), **levels})


def lower_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Lower one stored graph into a folder."""
    from compiler.ir.storage import load_graph
    from targets import get_target

    methods = {FORWARD: load_graph(Path(job["graph"]))}
    lowered = get_target(job["target"]).lower(methods, read_profile(job["profile"]), Path(job["folder"]))
    return {"files": list(lowered.files), "report": dict(lowered.report)}


def main() -> int:
    """Answer jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an SDK prints must not mix with the answers
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            answer = lower_job(json.loads(line))
        except Exception as error:  # the protocol carries every failure to the search
            unsupported = isinstance(error, UnsupportedModelError)
            text = str(error) if unsupported else f"{type(error).__name__}: {error}"
            answer = {"error": text, "unsupported": unsupported}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
