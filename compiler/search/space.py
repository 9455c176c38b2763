"""What a search chooses from: sites of several methods, and the pairs of them where two choices meet.

A choice is a tuple of option indices, one for each site in order; index 0 keeps the site as it is.
Sites that change the graph's structure stand before those that choose a precision: what they make of
the graph is what a precision is then chosen for.

    Link(u, v)      two precision sites exchange values: where their formats differ, every value that
                    crosses is converted, and that takes time. int8_dynamic and int4 read and write
                    float values
    Overlap(u, v)   two sites change the same operations: together they save less than the sum of
                    what each saves alone, because what the one takes away the other cannot speed up
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.compress.rounding import ROUNDING, Steps, by_precision, rounding
from compiler.errors import UsageError
from compiler.plan import Decision, Plan
from compiler.target import FLOAT, FLOAT16, INT8

PRECISION = "precision"
INT8_KEPT = "int8_kept"  # int8 with the branches apart that a merge folded

Choice = tuple[int, ...]
Literal = tuple[int, int]  # (site, option)


@dataclass(frozen=True)
class Site:
    """A place that a decision of a method is taken at; the first option changes nothing."""

    name: str
    method: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """Sites `u` and `v` (indices) exchange `bytes` of values for each inference, either way."""

    u: int
    v: int
    bytes: int


@dataclass(frozen=True)
class Overlap:
    """Sites `u` and `v` (indices) change operations they have in common.

    With the work w of all operations, w_u and w_v of those each site changes and w_uv of those that
    both do, `weight` is w_uv w / (w_u w_v): where both save time in proportion to the work they
    change, the joint saving falls short of the sum by weight times the product of the two savings,
    all in multiples of the base's latency. For u inside v this is one over v's share of the work.
    """

    u: int
    v: int
    weight: float


@dataclass(frozen=True)
class Space:
    """All choices of one search: its sites, the links and the overlaps between them.

    `apart` holds, by precision site, the decisions that leave its branches apart, which `int8_kept` takes
    beside int8. `rounding` holds the steps that a plan takes wherever it puts something in their precision.
    """

    sites: tuple[Site, ...]
    links: tuple[Link, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    rounding: Steps = ()
    apart: tuple[tuple[str, tuple[Decision, ...]], ...] = ()

    @property
    def base(self) -> Choice:
        """The choice that changes nothing."""
        return (0,) * len(self.sites)

    def single(self, site: int, option: int) -> Choice:
        """Return the choice that departs from the base at one site only."""
        return tuple(option if i == site else 0 for i in range(len(self.sites)))

    def joint(self, literals: Sequence[Literal]) -> Choice:
        """Return the choice that takes the given options, the base elsewhere."""
        taken = dict(literals)
        return tuple(taken.get(i, 0) for i in range(len(self.sites)))

    def uniform(self, option: str) -> Choice:
        """Return the choice of one precision wherever a site has it, the base elsewhere."""
        found = []
        for site in self.sites:
            wanted = INT8 if option == INT8_KEPT and INT8_KEPT not in site.options else option
            able = site.method == PRECISION and wanted in site.options
            found.append(site.options.index(wanted) if able else 0)
        return tuple(found)

    def literals(self) -> tuple[Literal, ...]:
        """Return every (site, option) that changes something."""
        return tuple((i, o) for i, s in enumerate(self.sites) for o in range(1, len(s.options)))

    def singles(self) -> tuple[Choice, ...]:
        """Return every choice that departs from the base at exactly one site."""
        return tuple(self.single(i, o) for i, o in self.literals())

    def option(self, literal: Literal) -> str:
        """Return the name of an option."""
        site, option = literal
        return self.sites[site].options[option]

    def taken(self, choice: Choice) -> tuple[Literal, ...]:
        """Return the (site, option) pairs at which a choice departs from the base."""
        return tuple((i, o) for i, o in enumerate(choice) if o)

    def structural(self, choice: Choice) -> tuple[Literal, ...]:
        """Return those of a choice's departures that change the graph's structure."""
        return tuple((i, o) for i, o in self.taken(choice) if self.sites[i].method != PRECISION)

    def crossed(self, choice: Choice) -> tuple[Link, ...]:
        """Return the links whose two ends hold different options."""
        return tuple(k for k in self.links if self._format(choice, k.u) != self._format(choice, k.v))

    def plan(self, choice: Choice) -> Plan:
        """Return the choice as a plan: every precision, and what else departs from the base."""
        pairs = zip(self.sites, choice, strict=True)
        said = ((s, o) for s, o in pairs if o or s.method == PRECISION)
        decisions = [d for s, o in said for d in self._decisions(s, s.options[o])]
        taken = {d.option for d in decisions if d.method == PRECISION}
        steps = by_precision(self.rounding)
        return Plan((*decisions, *rounding(tuple(s for p in steps if p in taken for s in steps[p]))))

    def choice(self, plan: Plan) -> Choice:
        """Return the choice a plan makes; a site it is silent on is kept.

        Raises UsageError for a site, a method or an option the space does not have.
        """
        known = {(s.name, s.method) for s in self.sites}
        known |= {(d.site, d.method) for _, apart in self.apart for d in apart}
        for d in plan.decisions:
            ours = d.method == ROUNDING and set(d.option.split("+")) <= set(self.rounding)
            if not ours and (d.site, d.method) not in known:
                have = ", ".join(sorted(f"{site} {method}" for site, method in known))
                raise UsageError(f"the plan decides {d.method} at {d.site!r}; this model has: {have}")
        return tuple(_index(s, self._option(s, plan)) for s in self.sites)

    def _decisions(self, site: Site, option: str) -> tuple[Decision, ...]:
        if option != INT8_KEPT:
            return (Decision(site.name, site.method, option),)
        return (*dict(self.apart)[site.name], Decision(site.name, site.method, INT8))

    def _option(self, site: Site, plan: Plan) -> str | None:
        option, apart = plan.option(site.name, site.method), dict(self.apart).get(site.name, ())
        kept = option == INT8 and site.method == PRECISION and apart and set(apart) <= set(plan.decisions)
        return INT8_KEPT if kept else option

    def _format(self, choice: Choice, site: int) -> str:
        return boundary_format(self.sites[site].options[choice[site]])


def boundary_format(precision: str) -> str:
    """Return the format of the values that a site of a precision exchanges with others."""
    return INT8 if precision == INT8_KEPT else precision if precision in (INT8, FLOAT16) else FLOAT


def _index(site: Site, option: str | None) -> int:
    if option is not None and option not in site.options:
        raise UsageError(f"{site.name!r} has no option {option!r}; it has: {', '.join(site.options)}")
    return 0 if option is None else site.options.index(option)


def uniform_choices(space: Space) -> tuple[Choice, ...]:
    """Return, for each precision there is, the choice of it wherever it can be."""
    sites = [s for s in space.sites if s.method == PRECISION]
    return tuple(space.uniform(o) for o in dict.fromkeys(o for s in sites for o in s.options[1:]))


def initial_choices(space: Space) -> tuple[Choice, ...]:
    """Return what is measured first where there is room: the base, each uniform precision, each single."""
    return tuple(dict.fromkeys([space.base, *uniform_choices(space), *space.singles()]))
