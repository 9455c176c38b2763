"""The healing that a plan asks for, applied to its finished graph: `model  heal  NAME+NAME`.

Healers change constants and nothing else, so that a plan takes as long healed as it does without.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.compress.decision import Sample
from compiler.compress.heal import HEALERS
from compiler.compress.heal.objective import halves
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.plan import Decision, Plan

HEAL = "heal"
SITE = "model"


def healers_of(plan: Plan) -> tuple[str, ...]:
    """Return the names of a plan's healers, in order."""
    option = plan.option(SITE, HEAL)
    return () if option is None else tuple(option.split("+"))


def healed(plan: Plan, names: Sequence[str]) -> Plan:
    """Return a plan with the given healers in the place of its own."""
    kept = plan.without(HEAL)
    return Plan((*kept.decisions, Decision(SITE, HEAL, "+".join(names)))) if names else kept


def heal(
    graph: Graph, original: Graph, names: Sequence[str], samples: Sequence[Sample], seed: int = 0
) -> Graph:
    """Return a graph healed towards the original by each healer in turn; itself without names.

    Raises UsageError for a healer there is not, or that can do nothing here.
    """
    known = {healer.NAME: healer for healer in HEALERS}
    for name in names:
        if name not in known:
            raise UsageError(f"the plan heals by {name!r}; healers are: {', '.join(known)}")
        parts = halves(samples)
        refused = known[name].refusal(graph, original, parts)
        if refused is not None:
            raise UsageError(f"{name} heals nothing here: {refused}")
        graph = known[name].heal(graph, original, parts, seed)
        verify(graph)
    return graph
