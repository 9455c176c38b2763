"""The port a runtime implements: one folder in `targets/`, found by its name.

`targets/<name>/__init__.py` holds `TARGET`, an object of this protocol, and imports no SDK when
it is itself imported. Gaps are data: `supports` answers for one node, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compiler.errors import UnsupportedModelError
from compiler.records import Artifact, RunSpec

if TYPE_CHECKING:
    from compiler.device import DeviceProfile
    from compiler.ir.graph import Graph, Node


FORWARD = "forward"  # the method of a program that has one

FLOAT = "float32"  # the model as it is
FLOAT16 = "float16"  # weights and activations in half
INT8 = "int8"  # weights in int8; activations in 8 bits by ranges read from calibration batches
INT8_DYNAMIC = "int8_dynamic"  # weights in int8; the kernel reads each activation's range as it runs
INT4 = "int4"  # weights of linear layers in 4 bits, a scale for each group of inputs


def only_method(methods: Mapping[str, Graph], target: str) -> Graph:
    """Return the one graph of a program, for a runtime whose programs hold one.

    Raises UnsupportedModelError where there are several.
    """
    if len(methods) > 1:
        raise UnsupportedModelError(
            f"a program of the target {target!r} holds one method, not {', '.join(methods)}: give --tokens "
            f"one count, or compile for a target with several methods, such as 'executorch'"
        )
    return next(iter(methods.values()))


def refuse_precision(precision: str, has: tuple[str, ...], target: str) -> None:
    """Raise UnsupportedModelError for a precision that a target does not have."""
    if precision not in has:
        raise UnsupportedModelError(
            f"the target {target!r} has no precision {precision}; it has {', '.join(has)}"
        )


@dataclass(frozen=True)
class Lowered:
    """The files that `lower` wrote, names inside the folder, the program first; and facts about them.

    `report` is JSON-ready: what was delegated, what fell back, seconds. `outside` lists what fell
    back, each row with its `op`, `count` and `method`.
    """

    files: tuple[str, ...]
    report: Mapping[str, object]


class Target(Protocol):
    """A runtime that graphs can be lowered to."""

    @property
    def name(self) -> str:
        """The name of the target's folder."""
        ...

    @property
    def folds_at_load(self) -> bool:
        """Whether the runtime computes what weights alone decide once, when it loads a program."""
        ...

    @property
    def depthwise_taps(self) -> int | None:
        """The largest kernel of a depthwise convolution that the runtime has code for; None for any."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """What a plan may ask of this runtime, out of FLOAT, FLOAT16, INT8, INT8_DYNAMIC and INT4."""
        ...

    @property
    def rounds_rows(self) -> bool:
        """Whether its linear layers with integer weights round each row of a float input to int8."""
        ...

    def installed(self) -> str | None:
        """Return None when the SDK can be imported, else what to install."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Return package name -> version of what lowers and runs the program."""
        ...

    def supports(self, node: Node) -> str | None:
        """Return None when the delegate takes the node, else the reason it does not."""
        ...

    def refuses(self, node: Node) -> str | None:
        """Return None when some part of the runtime computes the node, else the reason none does."""
        ...

    def lower(self, methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Lowered:
        """Write the runtime's files for a program of one or more methods into `folder`.

        The first method is the one that runs where none is asked for. Constants of equal content
        are stored once where the runtime can.

        Raises UnsupportedModelError naming the node, its module and source line, or, where the
        runtime holds one method a program, saying so.
        """
        ...

    def run_spec(self, artifact: Artifact, profile: DeviceProfile, method: str | None = None) -> RunSpec:
        """Return what to push and start on a device to run a method, the first one by default."""
        ...

    def quantizer(self, selected: Callable[[Any], bool], precision: str = INT8) -> Any:
        """Return a PT2E quantizer with this runtime's semantics of a precision for the selected FX nodes.

        Raises UnsupportedModelError for a precision that is not among `precisions`.
        """
        ...
