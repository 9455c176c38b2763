"""What a search chooses from: sites with options, and the links where two choices meet.

A choice is a tuple of option indices, one for each site in order; index 0 keeps the site as it is.
A link is a pair of sites that exchange values: where the options on its two ends keep their values
in different formats, every value that crosses is converted, and that takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import UsageError
from compiler.plan import Decision, Plan

Choice = tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A place a decision is taken at; the first option changes nothing."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """Sites `u` and `v` (indices) exchange `bytes` of values for each inference, either way."""

    u: int
    v: int
    bytes: int


@dataclass(frozen=True)
class Space:
    """All choices of one search: a method, its sites and their links."""

    method: str
    sites: tuple[Site, ...]
    links: tuple[Link, ...] = ()

    @property
    def base(self) -> Choice:
        """The choice that changes nothing."""
        return (0,) * len(self.sites)

    def single(self, site: int, option: int) -> Choice:
        """Return the choice that departs from the base at one site only."""
        return tuple(option if i == site else 0 for i in range(len(self.sites)))

    def uniform(self, option: str) -> Choice:
        """Return the choice of one option wherever a site has it, the base elsewhere."""
        return tuple(s.options.index(option) if option in s.options else 0 for s in self.sites)

    def singles(self) -> tuple[Choice, ...]:
        """Return every choice that departs from the base at exactly one site."""
        return tuple(self.single(i, o) for i, s in enumerate(self.sites) for o in range(1, len(s.options)))

    def crossed(self, choice: Choice) -> tuple[Link, ...]:
        """Return the links whose two ends hold different options."""
        return tuple(k for k in self.links if self._format(choice, k.u) != self._format(choice, k.v))

    def plan(self, choice: Choice) -> Plan:
        """Return the choice as a plan, each site named, kept ones too."""
        pairs = zip(self.sites, choice, strict=True)
        return Plan(tuple(Decision(s.name, self.method, s.options[o]) for s, o in pairs))

    def choice(self, plan: Plan) -> Choice:
        """Return the choice a plan makes; a site it is silent on is kept.

        Raises UsageError for a site or an option the space does not have.
        """
        known = {s.name for s in self.sites}
        for d in plan.decisions:
            if d.method == self.method and d.site not in known:
                raise UsageError(
                    f"the plan names the site {d.site!r}; this model has: {', '.join(sorted(known))}"
                )
        return tuple(_index(s, plan.option(s.name, self.method)) for s in self.sites)

    def _format(self, choice: Choice, site: int) -> str:
        return self.sites[site].options[choice[site]]


def _index(site: Site, option: str | None) -> int:
    if option is not None and option not in site.options:
        raise UsageError(f"{site.name!r} has no option {option!r}; it has: {', '.join(site.options)}")
    return 0 if option is None else site.options.index(option)


def initial_choices(space: Space) -> tuple[Choice, ...]:
    """Return what is measured first: the base, each uniform choice, each single departure."""
    options: Sequence[str] = dict.fromkeys(o for s in space.sites for o in s.options[1:])  # type: ignore[assignment]
    uniform = [space.uniform(o) for o in options]
    return tuple(dict.fromkeys([space.base, *uniform, *space.singles()]))
