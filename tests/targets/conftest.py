"""A lowered graph under its target's own runner, spoken to as a device would."""

import json
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

PROFILE = DeviceProfile("test", "this machine", "local", ("executorch",), threads=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@dataclass
class Lowered:
    """A graph, the folder it was lowered into, and the target's report."""

    target: object
    graph: object
    folder: Path
    report: dict

    def spec(self):
        return self.target.run_spec(Artifact(self.folder, {"artifact_digest": "0"}), PROFILE)

    def command(self):
        spec = self.spec()
        files = {name: str(path) for name, path in spec.files.items()} | {"python": sys.executable}
        return [part.format(**files) for part in spec.command]

    def talk(self, *requests):
        """Return the runner's answers to requests, the ready line first, and its exit code."""
        lines = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in requests)
        done = subprocess.run(
            self.command(), input=lines, text=True, capture_output=True, timeout=300, check=False
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
def lower(tmp_path):
    """A target and a graph to what the target made of it."""

    def run(target, graph):
        folder = tmp_path / f"artifact{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Lowered(target, graph, folder, dict(target.lower(graph, PROFILE, folder).report))

    return run
