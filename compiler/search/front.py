"""The Pareto front of what was measured: less cost or less latency, and how much of the plane it takes.

The hypervolume is the area between a front and a reference point that everything better is measured from;
it never falls as trials are added.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.search.trial import Trial


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the trials that no other beats in cost and in latency, from the fastest to the most faithful."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda t: t.price[::-1]):
        if not found or trial.price < (found[-1].price[0],):
            found.append(trial)
    return tuple(found)


def hypervolume(trials: Sequence[Trial], ratio: float, most_cost: float) -> float:
    """Return the area that trials dominate, up to `ratio` times the base's latency and to `most_cost`."""
    steps = [t for t in front(trials) if t.reading.ratio < ratio and t.price[0] < most_cost]
    edges = [*(t.reading.ratio for t in steps), ratio]
    return sum(
        (edge - t.reading.ratio) * (most_cost - t.price[0]) for t, edge in zip(steps, edges[1:], strict=True)
    )
