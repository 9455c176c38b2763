"""Choices in words: structure by site and option, then precision by segment number."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.search.space import PRECISION, Choice, Space
from compiler.target import FLOAT


def in_words(space: Space, choice: Choice, heals: Sequence[str] = ()) -> str:
    """Return a choice as `SITE OPTION, int8 in 1,3, healed by refit`, or `float32` for the base.

    Segments are counted from 1; where a precision is taken in all of several that have it, its name stands
    alone.
    """
    words = [f"{space.sites[g].name} {space.sites[g].options[o]}" for g, o in space.structural(choice)]
    for precision, numbers in _segments(space, choice).items():
        able = [s for s in space.sites if s.method == PRECISION and precision in s.options]
        listed = ",".join(map(str, numbers))
        words.append(precision if len(numbers) == len(able) > 1 else f"{precision} in {listed}")
    return ", ".join([*(words or [FLOAT]), *(f"healed by {name}" for name in heals)])


def _segments(space: Space, choice: Choice) -> dict[str, list[int]]:
    """Return the numbers of the segments that a choice puts in each precision but float32."""
    segments = [(s, o) for s, o in zip(space.sites, choice, strict=True) if s.method == PRECISION]
    found: dict[str, list[int]] = {}
    for number, (site, option) in enumerate(segments, start=1):
        if option:
            found.setdefault(site.options[option], []).append(number)
    return found
