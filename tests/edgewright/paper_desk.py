"""A runtime and a device that are made up: programs say how long they take, and the device takes that long."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compiler.cost.kernel import kernel_of
from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.errors import DeviceError, UnsupportedModelError
from compiler.ir.graph import Graph
from compiler.records import DeviceState, RunSpec
from compiler.target import Lowered

FIXED_NS, LAUNCH_NS = 2_600, 80
PROTOCOL = BenchmarkProtocol(settle_s=0, warmup_s=0, warmup_max_s=0, round_s=1e-9, min_rounds=3, max_rounds=3)
PROFILE = DeviceProfile("paper desk", "", "local", ("paper",), 1, protocol=PROTOCOL)


def price_ns(graph: Graph) -> int:
    """10 ns for each element of the weights, LAUNCH_NS for each operation, FIXED_NS for the call."""
    weights = sum(c.tensor.numel() for c in graph.constants.values())
    return FIXED_NS + LAUNCH_NS * len(graph.ops()) + 10 * weights


@dataclass
class Paper:
    """A runtime whose programs say how long they take; it does not know grouped convolutions."""

    lowered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    name: str = "paper"
    folds_at_load: bool = False
    depthwise_taps: int | None = None
    precisions: tuple[str, ...] = ("float32",)

    def installed(self):
        return None

    def versions(self) -> Mapping[str, str]:
        return {"paper": "1"}

    def supports(self, node):
        return None

    def lower(self, methods, profile, folder):
        graph = methods["forward"]
        kernel = kernel_of(graph, graph.ops()[-1])
        if dict(kernel.operands).get("groups", 1) != 1:
            self.refused.append(kernel.text)
            raise UnsupportedModelError("paper has no grouped convolution")
        self.lowered.append(kernel.text)
        (folder / "program.json").write_text(json.dumps({"ns": price_ns(graph), "kernel": kernel.text}))
        return Lowered(("program.json",), {})

    def run_spec(self, artifact, profile, method=None):
        return RunSpec({"program": artifact.folder / "program.json"}, ("{program}",))


@dataclass
class Desk:
    """A device that takes exactly as long as the program says; by their texts, `shaky` programs waver and `broken` ones do not start."""

    shaky: str = "nothing"
    broken: str = "nothing"
    lost: bool = False
    stop_at: int | None = None
    timed: Counter[str] = field(default_factory=Counter)
    name: str = "desk"
    now_ns: int = 0

    def identity(self):
        return ""

    def fingerprint(self):
        return {"machine": "made up", "processor": "pencil"}

    def state(self):
        self.now_ns += 100_000_000
        return DeviceState(time_ns=self.now_ns)

    def push(self, path: Path, workspace: str | None = None) -> str:
        return str(path)

    def start(self, command, env, affinity):
        program = json.loads(Path(command[0]).read_text())
        if self.lost or self.broken in program["kernel"]:
            raise DeviceError("the runner 'pencil' reports: the point breaks\nIts last words:\n  snap")
        return Pencil(self, program)


@dataclass
class Pencil:
    desk: Desk
    program: dict
    requests: int = 0
    ready: Mapping[str, object] = field(default_factory=lambda: {"load_ns": 1, "threads": 1, "affinity": [0]})

    def request(self, message, timeout_s=600.0):
        if message["do"] == "memory":
            return {}
        if self.desk.timed.total() == self.desk.stop_at:
            raise KeyboardInterrupt
        self.requests += 1
        kernel = self.program["kernel"]
        self.desk.timed[kernel] += 1
        taken = self.program["ns"] * (1 + (self.desk.shaky in kernel) * (self.requests % 3))
        return {"wall_ns": [taken] * message["iterations"], "cpu_ns": [taken] * message["iterations"]}

    def close(self):
        pass
