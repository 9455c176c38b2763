"""TVM Relax through LLVM: code for any processor, untuned: its schedules are the defaults of TVM.

Importing this package loads no SDK; asking what is supported, lowering and reading versions do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import UnsupportedModelError
from compiler.records import Artifact, RunSpec
from compiler.target import only_method
from targets.sdk import missing, versions
from targets.serving import served

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph, Node
    from compiler.target import Lowered, Target

PROGRAM = "model.so"
_PACKAGES = {"tvm": "apache-tvm", "torch": "torch"}


@dataclass(frozen=True)
class TVM:
    """The target; it has no settings."""

    name: str = "tvm"
    folds_at_load: bool = False

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

        Raises UnsupportedModelError naming the node and module the SDK failed at, where it says, and
        where there are several methods.
        """
        from targets.tvm.lower import lower

        return lower(only_method(methods, self.name), next(iter(methods)), folder)

    def run_spec(self, artifact: Artifact, profile: DeviceProfile, method: str | None = None) -> RunSpec:
        """Return what to push and start on a device to run the program with the profile's threads."""
        spec = served(artifact, profile, Path(__file__).parent / "runner.py", (PROGRAM,), method)
        return dataclasses.replace(spec, env={"TVM_NUM_THREADS": str(profile.threads)})

    def quantizer(self, selected: Callable[[Any], bool]) -> Any:
        """Raise UnsupportedModelError: int8 for this runtime is not written yet."""
        raise UnsupportedModelError(
            "the target 'tvm' cannot quantize yet: keep every precision float32 in the plan, "
            "or compile for a target with int8, such as 'executorch'"
        )


TARGET: Target = TVM()
