"""ExecuTorch with the XNNPACK delegate: phones, boards and the host, float32 and int8.

Importing this package loads no SDK; lowering, quantizing and reading versions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.records import Artifact, RunSpec
from compiler.target import FLOAT, FLOAT16, INT4, INT8, INT8_DYNAMIC, refuse_precision
from targets.executorch.capability import unsupported
from targets.sdk import missing, versions
from targets.serving import served

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph, Node
    from compiler.target import Lowered, Target

PROGRAM = "model.pte"
_PACKAGES = {name: name for name in ("executorch", "torch", "torchao")}


@dataclass(frozen=True)
class ExecuTorch:
    """The target; it has no settings."""

    name: str = "executorch"
    folds_at_load: bool = False
    depthwise_taps: int | None = 25  # 5x5, XNNPACK's largest
    precisions: tuple[str, ...] = (FLOAT, FLOAT16, INT8, INT8_DYNAMIC, INT4)
    rounds_rows: bool = True  # XNNPACK: qd8

    def installed(self) -> str | None:
        """Return None when the SDK can be imported, else what to install."""
        return missing(_PACKAGES, "executorch")

    def versions(self) -> Mapping[str, str]:
        """Return package name -> version of what lowers and runs the program."""
        return versions(_PACKAGES)

    def supports(self, node: Node) -> str | None:
        """Return None when XNNPACK takes the node, else the reason it falls to a portable kernel."""
        return unsupported(node)

    def refuses(self, node: Node) -> str | None:
        """Return None when XNNPACK or a portable kernel computes the node, else why neither does."""
        from targets.executorch.kernels import refused

        return refused(node)

    def lower(self, methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Lowered:
        """Write `model.pte` and `io.json` for a program of these methods into `folder`.

        Raises UnsupportedModelError naming the node and module the SDK failed at, where it says.
        """
        from targets.executorch.lower import lower

        return lower(methods, folder)

    def run_spec(self, artifact: Artifact, profile: DeviceProfile, method: str | None = None) -> RunSpec:
        """Return what to push and start on a device to run a method with the profile's threads."""
        return served(artifact, profile, self.name, Path(__file__).parent / "runner.py", (PROGRAM,), method)

    def quantizer(self, selected: Callable[[Any], bool], precision: str = INT8) -> Any:
        """Return an XNNPACKQuantizer, int8 per channel, that annotates only selected FX nodes."""
        from targets.executorch.quantizer import quantizer

        refuse_precision(precision, self.precisions, self.name)
        return quantizer(selected, precision == INT8_DYNAMIC)


TARGET: Target = ExecuTorch()
