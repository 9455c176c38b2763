"""The merge engine's attempts as JSON values, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from compiler.merge import Attempt, Outcome


def attempt_documents(attempts: Sequence[Attempt], method: str) -> list[dict[str, Any]]:
    """Return a method's attempts as JSON values; costs are multiply-accumulates of the prior."""
    return [{"method": method, **_document(attempt)} for attempt in attempts]


def count_outcomes(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Return how many regions were merged, kept and refused."""
    of_regions = (o for o in Outcome if o is not Outcome.BARRIER)
    return {outcome.value: sum(a.outcome is outcome for a in attempts) for outcome in of_regions}


def gained_macs(documents: Sequence[Mapping[str, Any]]) -> float:
    """Return the multiply-accumulates that the merged regions save."""
    merged = [d for d in documents if d["outcome"] == Outcome.MERGED]
    return float(sum(d["before"]["macs"] - d["after"]["macs"] for d in merged))


def _document(attempt: Attempt) -> dict[str, Any]:
    plain = asdict(attempt)
    for side in ("before", "after"):
        plain[side]["cost"] = _finite(plain[side]["cost"])
    return {**plain, "outcome": attempt.outcome.value, "exactness": attempt.exactness.value}


def _finite(cost: float) -> float | None:
    return cost if math.isfinite(cost) else None
