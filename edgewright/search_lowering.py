"""Lower the variants of a search side by side, each once: what is lowered already is taken as it is.

A variant is a folder named by its plan's digest, with the runtime's files and a manifest; it exists
complete or not at all. Lowering runs in worker processes (`edgewright.search_worker`), which end
with this one.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from compiler.device import DeviceProfile
from compiler.errors import UnsupportedModelError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph
from compiler.ir.storage import save_graph
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.target import FORWARD, Lowered, Target
from devices.benchmark import Candidate
from edgewright.artifact import MANIFEST, building, files_digest, write_json
from edgewright.search_worker import profile_document

SCHEMA = "edgewright.search.variant/1"
MOST_WORKERS = 4


def default_workers() -> int:
    """Return a worker for each processor this process may use, at most `MOST_WORKERS`."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def variant_candidate(
    variant: Artifact, target: Target, profile: DeviceProfile, label: str, series: str = ""
) -> Candidate:
    """Return what measures a lowered variant."""
    manifest = variant.manifest
    return Candidate(
        label=label,
        artifact_digest=variant.digest,
        graph_digest=str(manifest["graph_digest"]),
        plan_digest=str(manifest["plan_digest"]),
        spec=target.run_spec(variant, profile),
        plan=str(manifest["plan"]),
        target={"target": target.name, **target.versions()},
        series=series,
    )


class VariantStore:
    """The folder of lowered variants, and the workers that fill it."""

    def __init__(self, folder: Path, target: Target, profile: DeviceProfile, workers: int) -> None:
        """Use `folder`; with 0 workers variants are lowered in this process, one after another."""
        self._folder = folder
        self._target = target
        self._profile = profile
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers))
        self._idle: queue.Queue[_Worker | None] = queue.Queue()
        self._started: list[_Worker] = []
        for _ in range(workers):
            self._idle.put(None)
        self._separate = workers > 0
        self._jobs: dict[str, Future[Artifact]] = {}

    def __enter__(self) -> VariantStore:
        """Return the store itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End the workers; what they had not finished is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._started:
            worker.kill()
        self._pool.shutdown(wait=True)

    def start(self, plan: Plan, make: Callable[[], Graph]) -> Future[Artifact]:
        """Begin to lower a plan's variant, where it is not there or under way; `make` gives its graph."""
        digest = plan.digest()
        if digest not in self._jobs:
            found = self._stored(digest)
            if found is not None:
                self._jobs[digest] = Future()
                self._jobs[digest].set_result(found)
            else:
                self._jobs[digest] = self._pool.submit(self._lower, plan, make())
        return self._jobs[digest]

    def lowered(self, artifact: Artifact) -> Lowered:
        """Return a variant's files and report."""
        manifest: Any = artifact.manifest
        return Lowered(tuple(manifest["files"]), manifest["report"])

    def _stored(self, digest: str) -> Artifact | None:
        try:
            manifest = json.loads((self._folder / digest / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return Artifact(self._folder / digest, manifest)

    def _lower(self, plan: Plan, graph: Graph) -> Artifact:
        digest = plan.digest()
        with building(self._folder / digest) as folder:
            lowered = self._run(graph, folder) if self._separate else self._here(graph, folder)
            manifest = {
                "schema": SCHEMA,
                "target": self._target.name,
                "profile": self._profile.name,
                "files": list(lowered.files),
                "plan": plan.text(),
                "plan_digest": digest,
                "graph_digest": content_digest(graph),
                "artifact_digest": files_digest(folder, lowered.files),
                "bytes": sum((folder / name).stat().st_size for name in lowered.files),
                "report": dict(lowered.report),
            }
            write_json(folder / MANIFEST, manifest)
        return Artifact(self._folder / digest, manifest)

    def _here(self, graph: Graph, folder: Path) -> Lowered:
        lowered = self._target.lower({FORWARD: graph}, self._profile, folder)
        return Lowered(tuple(lowered.files), dict(lowered.report))

    def _run(self, graph: Graph, folder: Path) -> Lowered:
        stored = folder.with_name(f"{folder.name}-graph.json")
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker(self._folder / "lowering.log")
                self._started.append(worker)
            save_graph(graph, stored)
            answer = worker.ask(
                {
                    "graph": str(stored),
                    "folder": str(folder),
                    "target": self._target.name,
                    "profile": profile_document(self._profile),
                }
            )
        finally:
            self._idle.put(worker)
            for path in (stored, stored.with_suffix(".safetensors")):
                path.unlink(missing_ok=True)
        if "error" in answer:
            error = UnsupportedModelError if answer["unsupported"] else RuntimeError
            raise error(f"lowering a variant of the search failed: {answer['error']}")
        return Lowered(tuple(answer["files"]), answer["report"])


class _Worker:
    """One worker process."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgewright.search_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for the search, which ends its workers itself
            )
        self._log = log

    def ask(self, job: Mapping[str, object]) -> dict[str, Any]:
        stdin, stdout = _open(self._process.stdin), _open(self._process.stdout)
        try:
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise RuntimeError(
                f"a lowering process ended early (exit {self._process.poll()}); see {self._log}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
