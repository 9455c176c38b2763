"""Errors that reach the user, each with the exit code the command line ends with.

Exit codes: 0 done, 1 internal fault, 2 usage or unreadable input, 3 cannot be exported or
lowered, 4 numeric check failed, 5 device missing, unauthorised or lost, 6 budget infeasible,
7 measurement too unstable, 8 fallback above the limit, 130 interrupted.

A message says what is wrong, where, and what would be accepted. An error that is not an
`EdgewrightError` is a fault of ours (exit 1).
"""

from __future__ import annotations

from typing import ClassVar


class EdgewrightError(Exception):
    """The root of every error a user can act on."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgewrightError, ValueError):
    """The command, a file or an option cannot be read as given."""

    exit_code = 2


class UnsupportedModelError(EdgewrightError):
    """The model cannot be exported to, or lowered from, the graph IR."""

    exit_code = 3


class NumericError(EdgewrightError):
    """What was built does not compute what the original model computes."""

    exit_code = 4


class DeviceError(EdgewrightError):
    """The device is missing, refuses us, or was lost."""

    exit_code = 5


class InfeasibleBudgetError(EdgewrightError):
    """No variant meets the budget; the message names the least latency reached."""

    exit_code = 6


class UnstableMeasurementError(EdgewrightError):
    """The device would not give a reading steady enough to decide on."""

    exit_code = 7


class FallbackError(EdgewrightError):
    """More of the model fell outside the runtime's delegate than the user allows."""

    exit_code = 8


class GraphError(EdgewrightError):
    """A graph breaks a rule of the IR: the pass that made it is at fault."""

    exit_code = 1
