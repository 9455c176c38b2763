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


@dataclass(frozen=True)
class Attempt:
    """One region: `nodes` between `entry` and `root`, and the outcome.

    `node` is the one to blame for a refusal. `before` and `after` list operations; the costs are
    the price's, in the price's unit.
    """

    site: str
    entry: str
    root: str
    nodes: tuple[str, ...]
    outcome: Outcome
    reason: str
    node: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    cost_before: float
    cost_after: float
    exactness: Exactness = Exactness.REAL


class Refusal(Exception):
    """A region has no exact form: why, and the node to blame."""

    def __init__(self, reason: str, node: str = "") -> None:
        """Keep the reason and the node's name."""
        super().__init__(reason)
        self.reason = reason
        self.node = node

    def at(self, node: str) -> Refusal:
        """Return the refusal with a node to blame, where it has none yet."""
        return self if self.node else Refusal(self.reason, node)
