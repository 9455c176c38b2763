"""Healing: a compressed graph with the same operations and other constants, nearer to its original.

What a search decided costs accuracy; some of it comes back at no latency, since constants alone change.
The steps of `HEALERS` are tried in order, from the surest to the longest, each on one half of the
calibration calls. A step is kept where the outputs on the other half come nearer to the original's. A
step is a module:

    NAME                                    what a report calls it
    refusal(graph, original, parts)         why it is not done, or None
    heal(graph, original, parts, seed)      the graph with other constants

In a quantised graph gradients move floating biases and norms; codes and scales are fitted layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from compiler.compress.heal import bias_tuning, codes, corrected, distill, mask_lora, moments, refit, soup
from compiler.compress.heal.objective import Halves, Samples, cost, halves, reference
from compiler.ir.graph import Graph


class Healer(Protocol):
    """A healing step, which its module is."""

    @property
    def NAME(self) -> str:  # a constant of a module
        """The step's name in a report."""
        ...

    def refusal(self, graph: Graph, original: Graph, parts: Halves) -> str | None:
        """Return why the step is not done, None where it can be."""
        ...

    def heal(self, graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
        """Return the graph with other constants."""
        ...


HEALERS: tuple[Healer, ...] = (codes, moments, corrected, refit, bias_tuning, mask_lora, distill, soup)


@dataclass(frozen=True)
class Step:
    """What a step did to the distance on the judging half; `refused` says why it was not tried."""

    name: str
    before: float
    after: float
    kept: bool
    refused: str = ""


@dataclass(frozen=True)
class Healed:
    """The healed graph and what each step did."""

    graph: Graph = field(repr=False)
    steps: tuple[Step, ...]


def heal(
    graph: Graph, original: Graph, samples: Samples, seed: int = 0, healers: Sequence[Healer] = HEALERS
) -> Healed:
    """Return the graph healed by all steps that help, with what each did.

    Args:
        graph: the compressed graph; layers are told by the names they have in the original.
        original: the graph it was made from, with the same inputs and outputs.
        samples: unlabelled calls, each its flat inputs; every other one judges.
        seed: of the order of training samples: the same gives the same constants.
        healers: the steps, in order.

    Raises UsageError for fewer than two calls.
    """
    parts = halves(samples)
    wanted = reference(original, parts.judge)
    best, steps = cost(graph, wanted, parts.judge), []
    for healer in healers:
        refused = "nothing is lost" if best == 0 else healer.refusal(graph, original, parts)
        if refused:
            steps.append(Step(healer.NAME, best, best, False, refused))
            continue
        tried = healer.heal(graph, original, parts, seed)
        after = cost(tried, wanted, parts.judge)
        steps.append(Step(healer.NAME, best, after, after < best))
        graph, best = (tried, after) if after < best else (graph, best)
    return Healed(graph, tuple(steps))
