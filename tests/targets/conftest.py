"""A lowered graph under its target's own runner, spoken to as a device would."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compiler.device import DeviceProfile
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.passes import PIPELINE
from compiler.records import Artifact
from compiler.target import FORWARD
from targets import list_targets

PROFILE = DeviceProfile("test", "this machine", "local", list_targets(), threads=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@dataclass
class Lowered:
    """A method's graph, the folder its program was lowered into, and the target's report."""

    target: object
    graph: object
    folder: Path
    report: dict
    method: str | None = None

    def spec(self, threads=1):
        profile = dataclasses.replace(PROFILE, threads=threads)
        return self.target.run_spec(Artifact(self.folder, {"artifact_digest": "0"}), profile, self.method)

    def command(self, threads):
        spec = self.spec(threads)
        files = {name: str(path) for name, path in spec.files.items()} | {"python": sys.executable}
        return [part.format(**files) for part in spec.command]

    def talk(self, *requests, threads=1):
        """Return the runner's answers to requests, the ready line first, and its exit code."""
        lines = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in requests)
        environment = os.environ | dict(self.spec(threads).env)
        done = subprocess.run(
            self.command(threads),
            input=lines,
            text=True,
            capture_output=True,
            timeout=300,
            env=environment,
            check=False,
        )
        return [json.loads(line) for line in done.stdout.splitlines()], done.returncode

    def asks(self, *inputs):
        """Return the request that runs the program on inputs."""
        paths = [self.folder / f"in{i}.bin" for i, _ in enumerate(inputs)]
        for path, tensor in zip(paths, inputs, strict=True):
            path.write_bytes(tensor.contiguous().numpy().tobytes())
        return {"do": "infer", "inputs": [str(p) for p in paths], "outputs": str(self.folder)}

    def infer(self, *inputs, before=()):
        """Return the runner's outputs for inputs, after other requests."""
        answers, _ = self.talk(*before, self.asks(*inputs))
        assert "outputs" in answers[-1], answers
        return [read(out) for out in answers[-1]["outputs"]]

    def error(self, *inputs):
        """Return the largest error of an output against float64, relative to its largest value."""
        expected = evaluate(self.graph, inputs, torch.float64)
        pairs = zip(self.infer(*inputs), expected, strict=True)
        return max(float((g.double() - e).abs().max() / e.abs().max()) for g, e in pairs)


def read(output):
    data = bytearray(Path(output["path"]).read_bytes())
    return torch.frombuffer(data, dtype=getattr(torch, output["dtype"])).reshape(output["shape"])


def _imported(module, *inputs, **options):
    graph = import_model(module.eval(), inputs, **options)
    for _, run in PIPELINE:
        graph = run(graph)
    return graph


@pytest.fixture
def imports():
    """A module's graph after the exact passes, before any merge."""
    return _imported


@pytest.fixture
def lower_methods(tmp_path):
    """A target and the graphs of a program's methods to what the target made of each."""

    def run(target, graphs):
        folder = tmp_path / f"artifact{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        report = dict(target.lower(graphs, PROFILE, folder).report)
        return {name: Lowered(target, graph, folder, report, name) for name, graph in graphs.items()}

    return run


@pytest.fixture
def lower(lower_methods):
    """A target and a graph to what the target made of it, run as the method there is."""

    def run(target, graph):
        return dataclasses.replace(lower_methods(target, {FORWARD: graph})[FORWARD], method=None)

    return run
