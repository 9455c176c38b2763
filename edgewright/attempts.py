"""The merge engine's attempts as JSON values, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from compiler.merge import Attempt, Outcome


def attempt_documents(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Return the attempts as JSON values; costs carry their unit, multiply-accumulates of the prior."""
    return [_document(attempt) for attempt in attempts]


def count_outcomes(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Return how many regions were merged, kept and refused."""
    return {outcome.value: sum(a.outcome is outcome for a in attempts) for outcome in Outcome}


def gained_macs(documents: Sequence[Mapping[str, Any]]) -> float:
    """Return what the merged regions save by the roofline prior, in multiply-accumulates."""
    merged = [d for d in documents if d["outcome"] == Outcome.MERGED]
    costs = [(d["cost_before_macs"], d["cost_after_macs"]) for d in merged]
    return float(sum(before - after for before, after in costs if before is not None and after is not None))


def _document(attempt: Attempt) -> dict[str, Any]:
    plain = asdict(attempt)
    before, after = plain.pop("cost_before"), plain.pop("cost_after")
    return {
        **plain,
        "outcome": attempt.outcome.value,
        "exactness": attempt.exactness.value,
        "cost_before_macs": _finite(before),
        "cost_after_macs": _finite(after),
    }


def _finite(cost: float) -> float | None:
    return cost if math.isfinite(cost) else None
