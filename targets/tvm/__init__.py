"""TVM Relax through LLVM: code for any processor, by TVM's default schedules or by tuned ones (`tuning/`).

A profile that states a processor gets a static executable that needs no runtime, where the model allows.

Importing this package loads no SDK; asking what is supported, lowering and reading versions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.records import Artifact, RunSpec
from compiler.target import FLOAT, INT8, only_method, refuse_precision
from targets.sdk import missing, versions

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph, Node
    from compiler.target import Lowered, Target
    from compiler.tuning import Tuner

PROGRAM = "model.so"
LIBRARY_TWIN = "model.host.so"
_PACKAGES = {"tvm": "apache-tvm", "torch": "torch", "ziglang": "ziglang"}


@dataclass(frozen=True)
class TVM:
    """The target; `schedules` are those of kernels that were tuned, by key."""

    name: str = "tvm"
    folds_at_load: bool = False
    depthwise_taps: int | None = None
    precisions: tuple[str, ...] = (FLOAT, INT8)
    rounds_rows: bool = False
    schedules: Mapping[str, str] = field(default_factory=dict, hash=False)

    def installed(self) -> str | None:
        """Return None when the SDK can be imported, else what to install."""
        return missing(_PACKAGES, "tvm")

    def versions(self) -> Mapping[str, str]:
        """Return package name -> version of what lowers and runs the program."""
        return versions(_PACKAGES)

    def supports(self, node: Node) -> str | None:
        """Return None when one of the two importers takes the node, else why they do not."""
        from targets.tvm.capability import unsupported

        return unsupported(node)

    def refuses(self, node: Node) -> str | None:
        """Return None when the runtime computes the node, else why it does not: what is taken is computed."""
        return self.supports(node)

    def lower(self, methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Lowered:
        """Write `model.so` and `io.json` for a program of one method into `folder`.

        For a profile that states its processor, a static executable with its weights, or `model.so` for
        that processor, each with a twin for this machine (`targets/tvm/cross.py`).

        Raises UnsupportedModelError naming the node and module the SDK failed at, where it says, and
        where there are several methods.
        """
        from targets.tvm.lower import lower

        graph = only_method(methods, self.name)
        return lower(graph, next(iter(methods)), profile, folder, self.schedules)

    def tuner(self, graph: Graph, profile: DeviceProfile) -> Tuner:
        """Return the kernels of a graph, ready to be tuned for a profile's processor.

        Raises UnsupportedModelError as `lower` does, UsageError for a profile of several threads.
        """
        from targets.tvm.tuning.tuner import tuner

        return tuner(graph, profile)

    def processor(self, profile: DeviceProfile) -> Mapping[str, str]:
        """Return the processor that schedules for a profile are made for, and its threads."""
        from targets.tvm.processor import stated, this_machine

        found = this_machine() if profile.arch is None else stated(profile)
        return {"arch": found.arch, "cpu": found.cpu, "threads": str(profile.threads)}

    def scheduled(self, schedules: Mapping[str, str]) -> TVM:
        """Return the target that lowers kernels of these keys by these schedules."""
        return replace(self, schedules=dict(schedules))

    def run_spec(self, artifact: Artifact, profile: DeviceProfile, method: str | None = None) -> RunSpec:
        """Return what to push and start on a device to run the program with the profile's threads."""
        from targets.tvm.starting import run_spec

        return run_spec(artifact, profile, method)

    def quantizer(self, selected: Callable[[Any], bool], precision: str = INT8) -> Any:
        """Return our own PT2E quantizer, int8 per channel, that annotates only selected FX nodes."""
        from targets.quantizer import SelectiveQuantizer

        refuse_precision(precision, self.precisions, self.name)
        return SelectiveQuantizer(selected)


TARGET: Target = TVM()
