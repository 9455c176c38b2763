"""Several answers of a device from one shell call: named sections, split by a line that no answer holds.

A call costs milliseconds and a state is read around each round, so everything is asked at once. What
is denied leaves its section empty.
"""

from __future__ import annotations

from collections.abc import Mapping

RULE = "=====edgewright "


def sections_script(commands: Mapping[str, str]) -> str:
    """Return a script that runs each command and prints its output as a section."""
    return "\n".join(
        f"echo; echo '{RULE}{name}'; {{ {command}; }} 2>/dev/null" for name, command in commands.items()
    )


def split_sections(text: str) -> dict[str, str]:
    """Return the sections by name, without blank lines at their ends."""
    parts = text.split("\n" + RULE)[1:]
    named = (part.partition("\n") for part in parts)
    return {name.strip(): body.strip("\n") for name, _, body in named}
