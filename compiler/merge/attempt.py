"""What the merge engine found at each region, and what it did about it.

A refusal is a value: the reason and the node to blame, collected, printed by `explain` and asserted
in tests. Inside the algebra it travels as the one exception `Refusal`, which only the engine
catches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Exactness(StrEnum):
    """In which sense a rewrite keeps the function."""

    BITWISE = "bitwise"  # the same bits
    REAL = "real"  # equal over the reals; rounding may differ
    SHAPE = "shape"  # equal for the compiled shape
    ARGMAX = "argmax"  # equal ranking only; opt-in
    LOSSY = "lossy"  # compress/ only


class Outcome(StrEnum):
    """What became of a region."""

    MERGED = "merged"
    KEPT = "kept"  # legal, and not cheaper
    REFUSED = "refused"  # not equal, or not provably so
    BARRIER = "barrier"  # no region: an operation that is not affine, between regions


@dataclass(frozen=True)
class Work:
    """What a stretch of operations costs: their names, multiply-accumulates, bytes moved, and the price."""

    ops: tuple[str, ...] = ()
    macs: float = 0.0
    bytes: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class Alternative:
    """One form of a region: its operations, and the sum of their measured latencies, with 95% bounds."""

    form: str
    ops: tuple[str, ...]
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Attempt:
    """One region: `nodes` between `entry` and `root`, and the outcome.

    `form` is the algebraic form found. `node` is the one to blame for a refusal, `window` the operations
    around it. `priced_by` says what the price rests on; costs are in its unit. `residual` is the largest
    difference of the emitted form from the region on random input, relative, in float64; None where it
    was not run. `options` are the region as it stands and in its other forms, as far as measured.
    """

    site: str
    entry: str
    root: str
    nodes: tuple[str, ...]
    outcome: Outcome
    reason: str
    node: str = ""
    form: str = ""
    before: Work = Work()
    after: Work = Work()
    exactness: Exactness = Exactness.REAL
    priced_by: str = ""
    residual: float | None = None
    window: tuple[str, ...] = ()
    options: tuple[Alternative, ...] = ()


class Refusal(Exception):
    """A region has no exact form: why, and the node to blame.

    A `quiet` one says only that two operations have nothing to do with each other, and is not reported.
    """

    def __init__(self, reason: str, node: str = "", quiet: bool = False) -> None:
        """Keep the reason and the node's name."""
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.quiet = quiet

    def at(self, node: str) -> Refusal:
        """Return the refusal with a node to blame, where it has none yet."""
        return self if self.node else Refusal(self.reason, node, self.quiet)
