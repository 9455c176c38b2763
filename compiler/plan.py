"""A plan: the ordered decisions that turn one merged graph into one variant of it.

A plan is the only currency between search and compile. It is text in and text out, so that it
can be read, stored with every measurement, replayed and argued with:

    # edgewright plan 1
    segment:stem+blocks.0  precision  int8
    segment:blocks.1       precision  float32

A site id is built from module paths, never from weights, so that it survives renaming.
Equal plans have equal text and equal digests; decisions keep the order they are applied in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from compiler.errors import UsageError

HEADER = "# edgewright plan 1"


@dataclass(frozen=True, order=True)
class Decision:
    """At `site`, apply `method` with `option`; none of the three holds white space."""

    site: str
    method: str
    option: str

    def __post_init__(self) -> None:
        for field in (self.site, self.method, self.option):
            if not field or any(c.isspace() for c in field):
                raise UsageError(f"a plan field must be non-empty and hold no white space: {field!r}")


@dataclass(frozen=True)
class Plan:
    """An ordered list of decisions, at most one for each site and method."""

    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        seen: set[tuple[str, str]] = set()
        for d in self.decisions:
            if (d.site, d.method) in seen:
                raise UsageError(f"the plan decides {d.method!r} at {d.site!r} twice")
            seen.add((d.site, d.method))

    def option(self, site: str, method: str) -> str | None:
        """Return the option chosen at a site for a method, or None where the plan is silent."""
        return next((d.option for d in self.decisions if (d.site, d.method) == (site, method)), None)

    def without(self, method: str) -> Plan:
        """Return the plan without the decisions of a method."""
        return Plan(tuple(d for d in self.decisions if d.method != method))

    def text(self) -> str:
        """Return the plan as text that `parse_plan` reads back equal."""
        return "\n".join([HEADER, *(f"{d.site}  {d.method}  {d.option}" for d in self.decisions)]) + "\n"

    def digest(self) -> str:
        """Return a digest of the plan's text, 16 hexadecimal digits."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]


def parse_plan(text: str) -> Plan:
    """Read a plan from text; raises UsageError naming the line that is not a decision."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise UsageError(f"not a plan: the first line must be {HEADER!r}")
    decisions = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 3:
            raise UsageError(f"plan line {number}: expected `site method option`, got {line.strip()!r}")
        decisions.append(Decision(*fields))
    return Plan(tuple(decisions))
