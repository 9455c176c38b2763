"""A made-up device and model with sites of several methods, whose true latency and costs are known.

Segment i takes a share of the time; int8 multiplies what is left of it by a factor, a structural site takes a
part of its segment's work away. Single departures and joint choices follow from that and not from any
additive model.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compiler.search.experiments import Experiments, Outlook
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice, Link, Overlap, Site, Space
from compiler.search.trial import Reading

BASE_NS = 10e6
OPTIONS = ("keep", "mild", "hard")


@dataclass
class Landscape:
    """`segments` in a row, with a structural site in each of the first `structural`; all drawn from a seed.

    `clash` names pairs of structural sites that cannot be built together; `curved` makes the joint cost
    depart from the sum, by pairs; `halves_differ` gives the second half of the samples costs of its own.
    """

    seed: int = 0
    segments: int = 5
    structural: int = 3
    clash: frozenset[tuple[int, int]] = frozenset()
    curved: float = 0.0
    halves_differ: float = 0.0
    useless: frozenset[int] = frozenset()
    runs: list[tuple[Choice, ...]] = field(default_factory=list)
    costs_read: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n, k = self.segments, self.structural
        self.share = rng.dirichlet(np.full(n, 5.0)) * 0.9
        self.int8 = rng.uniform(0.4, 0.7, n)
        self.removed = np.sort(rng.uniform(0.1, 0.6, (k, 2)), axis=1)
        for site in self.useless:
            self.removed[site] = 0.0
        self.damage = rng.exponential(0.05, n)
        self.cut_damage = np.sort(rng.exponential(0.08, (k, 2)), axis=1)
        size = n + 2 * k
        self.pairs = rng.normal(0, self.curved, (size, size))
        self.other = rng.normal(0, self.halves_differ, (size, size)) + self.pairs

    @property
    def space(self) -> Space:
        k, n = self.structural, self.segments
        cuts = [Site(f"cut:{i}", "cut", OPTIONS) for i in range(k)]
        precise = [Site(f"segment:{i}", "precision", ("float32", "int8")) for i in range(n)]
        links = [Link(k + i, k + i + 1, 1000) for i in range(n - 1)]
        overlaps = [Overlap(i, k + i, 1 / float(self.share[i])) for i in range(k)]
        return Space((*cuts, *precise), tuple(links), tuple(overlaps))

    def ratio(self, choice: Choice) -> float:
        k = self.structural
        total = 1 - float(self.share.sum())
        for i, share in enumerate(self.share):
            left = 1 - (self.removed[i, choice[i] - 1] if i < k and choice[i] else 0.0)
            total += share * left * (self.int8[i] if choice[k + i] else 1.0)
        return total + 0.005 * len(self.space.crossed(choice))

    def cost_of(self, choice: Choice, second: bool = False) -> float:
        k = self.structural
        taken = [2 * i + o - 1 for i, o in enumerate(choice[:k]) if o]
        total = sum(self.cut_damage[i // 2, i % 2] for i in taken)
        taken += [2 * k + i for i, o in enumerate(choice[k:]) if o]
        total += sum(self.damage[i] for i, o in enumerate(choice[k:]) if o)
        pairs = self.other if second else self.pairs
        return float(max(1e-6, total + sum(pairs[a, b] for a, b in itertools.combinations(taken, 2))))

    def measure(self, choices: Sequence[Choice]) -> Mapping[Choice, Reading]:
        self.runs.append(tuple(choices))
        return {c: self.reading(c) for c in choices}

    def reading(self, choice: Choice) -> Reading:
        ratio, half = self.ratio(choice), 1e-6
        low, high = ratio - half, ratio + half
        times = (ratio * BASE_NS, low * BASE_NS, high * BASE_NS, BASE_NS)
        return Reading(ratio, low, high, *times, seconds=1.0)

    def cost(self, choice: Choice) -> CostEstimate:
        self.costs_read.append(choice)
        return estimate(self.cost_of(choice))

    def second(self, choice: Choice) -> CostEstimate:
        return estimate(self.cost_of(choice, second=True))

    def refuses(self, choice: Choice) -> str | None:
        both = next((p for p in self.clash if all(choice[i] for i in p)), None)
        return None if both is None else f"cut:{both[0]} and cut:{both[1]} cannot be built together"

    def outlook(self, choice: Choice) -> Outlook:
        """Expect the truth, half as much."""
        gain = 1 - self.ratio(choice)
        return Outlook(-gain / 2, 2 * gain)

    def lab(self, **changes: object) -> Experiments:
        asked = {"second": self.second, "refuses": self.refuses, "outlook": self.outlook, **changes}
        return Experiments(self.measure, self.cost, **asked)

    def measured(self) -> list[Choice]:
        return [c for run in self.runs for c in run if c != self.space.base]

    def everything(self) -> list[Choice]:
        every = itertools.product(*(range(len(s.options)) for s in self.space.sites))
        return [c for c in every if self.refuses(c) is None]

    def optimum(self, limit: float) -> float:
        return min(self.cost_of(c) for c in self.everything() if self.ratio(c) <= limit)


def estimate(value: float) -> CostEstimate:
    return CostEstimate(value, value / 10, value * 0.8, value * 1.2, 100)
