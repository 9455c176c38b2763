"""ONNX Runtime with its CPU provider: phones, boards and the host, float32, float16 and int8.

Importing this package loads no SDK; asking what is supported, lowering and reading versions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.records import Artifact, RunSpec
from compiler.target import FLOAT, INT4, INT8, INT8_DYNAMIC, only_method, refuse_precision
from targets.sdk import missing, versions
from targets.serving import served

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph, Node
    from compiler.target import Lowered, Target

PROGRAM = "model.onnx"
_PACKAGES = {name: name for name in ("onnxruntime", "onnx", "onnxscript", "torch")}


@dataclass(frozen=True)
class OnnxRuntime:
    """The target; it has no settings."""

    name: str = "onnxruntime"
    folds_at_load: bool = True
    depthwise_taps: int | None = None
    precisions: tuple[str, ...] = (FLOAT, INT8, INT8_DYNAMIC, INT4)
    rounds_rows: bool = False  # int4 multiplies floats, int8 rounds the whole input

    def installed(self) -> str | None:
        """Return None when the SDK can be imported, else what to install."""
        return missing(_PACKAGES, "onnx")

    def versions(self) -> Mapping[str, str]:
        """Return package name -> version of what lowers and runs the program."""
        return versions(_PACKAGES)

    def supports(self, node: Node) -> str | None:
        """Return None when the exporter and the CPU provider take the node, else why they do not."""
        from targets.onnxruntime.capability import unsupported

        return unsupported(node)

    def refuses(self, node: Node) -> str | None:
        """Return None when the runtime computes the node, else why it does not: what is taken is computed."""
        return self.supports(node)

    def lower(self, methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Lowered:
        """Write `model.onnx` and `io.json` for a program of one method into `folder`.

        Raises UnsupportedModelError naming the node and module the SDK failed at, where it says, and
        where there are several methods.
        """
        from targets.onnxruntime.lower import lower

        return lower(only_method(methods, self.name), next(iter(methods)), folder)

    def run_spec(self, artifact: Artifact, profile: DeviceProfile, method: str | None = None) -> RunSpec:
        """Return what to push and start on a device to run the program with the profile's threads."""
        return served(artifact, profile, self.name, Path(__file__).parent / "runner.py", (PROGRAM,), method)

    def quantizer(self, selected: Callable[[Any], bool], precision: str = INT8) -> Any:
        """Return our own PT2E quantizer, int8 per channel, that annotates only selected FX nodes."""
        from targets.quantizer import SelectiveQuantizer

        refuse_precision(precision, self.precisions, self.name)
        return SelectiveQuantizer(selected, precision == INT8_DYNAMIC)


TARGET: Target = OnnxRuntime()
