"""How a search stands, from its events: a state that each event turns into the next, and lines of text.

    started -> measured -> measured -> ... -> finished

A terminal shows the state as a table that stays in place (`edgewright.cli.search_live`); a log gets one
line for each event. The model's error is that of predictions made before measuring, over what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from compiler.search.events import Event, Finished, Measured, Started


@dataclass(frozen=True)
class SearchState:
    """A search so far; `errors` are the relative errors of its predictions, oldest first."""

    model: str = ""
    budget: str = ""
    sites: int = 0
    measured: int = 0
    left: int | None = None
    best: Measured | None = None
    errors: tuple[float, ...] = ()

    @property
    def error(self) -> float | None:
        """The mean size of the model's errors, None where nothing was predicted yet."""
        return sum(map(abs, self.errors)) / len(self.errors) if self.errors else None


def advance(state: SearchState, event: Event) -> SearchState:
    """Return the state after an event."""
    match event:
        case Started():
            return SearchState(event.model, event.budget, event.sites, left=event.left)
        case Measured():
            return _measured(state, event)
        case Finished():
            return state


def line(event: Event) -> str:
    """Return an event as one line of a log."""
    match event:
        case Started():
            most = "" if event.left is None else f", {event.left} measurements at most"
            return f"{event.model}: {event.sites} sites, budget {event.budget}{most}"
        case Measured():
            return _measured_line(event)
        case Finished():
            return f"chosen {event.variant}: {event.high:.3f}x at most, cost {event.cost:.3g}"


def rows(state: SearchState) -> tuple[tuple[str, str], ...]:
    """Return the state as a table's rows."""
    best = state.best
    found = (
        "none yet" if best is None else f"{best.variant}: {best.high:.3f}x at most, cost {best.cost or 0:.3g}"
    )
    error = state.error
    told = "nothing predicted yet" if error is None else _error(error, state.errors[-1])
    return (
        ("budget", state.budget),
        ("best so far", found),
        ("measured", str(state.measured)),
        ("measurements left", "no bound" if state.left is None else str(state.left)),
        ("model error", told),
    )


def _measured(state: SearchState, event: Measured) -> SearchState:
    better = event.within and event.cost is not None and (event.cost, event.ratio) < _rank(state.best)
    errors = state.errors
    if event.predicted is not None:
        errors = (*errors, (event.predicted - event.ratio) / event.ratio)
    return replace(
        state,
        measured=state.measured + 1,
        left=event.left if event.left is not None else state.left,
        best=event if better else state.best,
        errors=errors,
    )


def _rank(best: Measured | None) -> tuple[float, float]:
    """Return what a better variant has less of, the cost first."""
    return (math.inf, math.inf) if best is None or best.cost is None else (best.cost, best.ratio)


def _measured_line(event: Measured) -> str:
    expected = "" if event.predicted is None else f", predicted {event.predicted:.3f}x"
    cost = "" if event.cost is None else f", cost {event.cost:.3g}"
    left = "" if event.left is None else f", {event.left} measurements left"
    verdict = "within" if event.within else "over"
    return (
        f"measured {event.variant}: {event.ratio:.3f}x ({event.low:.3f} to {event.high:.3f}){expected}{cost}"
        f": {verdict} budget{left}"
    )


def _error(mean: float, last: float) -> str:
    return f"{100 * mean:.1f}% on average, {100 * last:+.1f}% the last time"
