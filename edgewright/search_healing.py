"""The last step of a search: constants of the winner moved so that its outputs come nearer the original's.

Each healer of `compiler.compress.heal` is tried in order on top of those that were kept. One is kept where
the cost falls on the first part of half B, which healing does not look at. Healing changes no operation, so
it costs no time; the healed program is measured all the same, and wins only within the budget.
"""

from __future__ import annotations

from compiler.compress.heal import HEALERS
from compiler.errors import UnsupportedModelError, UsageError
from compiler.search.budget import Budget
from compiler.search.trial import Outcome, Trial
from edgewright.search_lab import Heals, Lab


def heal_winner(lab: Lab, outcome: Outcome, budget: Budget, most_bytes: float) -> Outcome:
    """Return an outcome with its winner healed, itself where nothing helps or nothing was changed."""
    winner = outcome.winner
    if not any(winner.choice) or not lab.halves.second:
        return outcome
    kept = _kept(lab, winner)
    if not kept:
        return outcome
    choice = winner.choice
    reading = lab.measure([choice], kept)[choice]
    made = Trial(
        choice, reading, lab.seen_cost(choice, kept), winner.reading.ratio, lab.size(choice, kept), kept
    )
    fits = reading.within(budget) and (made.bytes or 0) <= most_bytes and lab.gate(choice, kept) is None
    trials = (*outcome.trials, made)
    return Outcome(made if fits else winner, trials, outcome.model, outcome.refused, outcome.unmeasured)


def _kept(lab: Lab, winner: Trial) -> Heals:
    """Return the healers that lower the cost on samples they do not see."""
    kept: Heals = ()
    cost = lab.second(winner.choice).mean
    for healer in HEALERS:
        tried = (*kept, healer.NAME)
        try:
            after = lab.second(winner.choice, tried).mean
        except (UsageError, UnsupportedModelError) as error:
            lab.progress(f"not healed by {healer.NAME}: {error}")
            continue
        lab.progress(f"heal by {healer.NAME}: cost on a second half {cost:.3g} to {after:.3g}")
        if after < cost:
            kept, cost = tried, after
    return kept
