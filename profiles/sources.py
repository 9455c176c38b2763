"""Facts and where they were read: a fact of the hardware without a source is an error.

`[source]` maps dotted keys to texts. A key names a value (`device.soc`, `memory.size_mb`,
`cluster.big.core`) or all that stands below it (`memory`, `cluster.big`, `cluster`):

    [source]
    device.soc = "https://... (2026-11-26): its table names the Tensor G3"
    cluster.big = "https://... (2026-11-26): cpu@800, compatible arm,cortex-x3"

Facts, which need one, are `soc` and `isa`, clusters and memory. `arch` and `cpu` say what code is made for
and [expect] what to compare, so that a profile of one's own may state them without; they may have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compiler.errors import UsageError

NEED = ("device.soc", "device.isa", "cluster", "memory")
MAY = ("device.arch", "device.cpu", "expect")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table with dotted keys: TOML reads an unquoted `device.soc` as a table in a table."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def values(tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dotted keys of the values that a source may be given for."""
    return tuple(key for key in _stated(tables) if _below(key, NEED + MAY))


def source_of(key: str, sources: Mapping[str, str]) -> str | None:
    """Return the source of a value, its own or else that of what it stands in."""
    covering = [name for name in sources if _below(key, (name,))]
    return sources[max(covering, key=len)] if covering else None


def check_sources(path: Path, tables: Mapping[str, Any]) -> None:
    """Raise UsageError for a fact without a source, and for a source of nothing that is stated."""
    sources = tables.get("source", {})
    stated = values(tables)
    for key in stated:
        if _below(key, NEED) and source_of(key, sources) is None:
            raise UsageError(
                f'{path}: the fact {key} has no source; add [source] {key} = "https://... (the day, such as '
                '2026-11-26): what was read there", or leave the fact out'
            )
    for name in sources:
        if not any(_below(key, (name,)) for key in stated):
            raise UsageError(
                f"{path}: [source] {name} belongs to no value; those it could: {', '.join(stated) or 'none'}"
            )


def _below(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _stated(tables: Mapping[str, Any]) -> Iterator[str]:
    for table in ("device", "memory", "expect"):
        yield from (f"{table}.{key}" for key in tables.get(table, {}))
    for cluster in tables.get("cluster", []):
        yield from (f"cluster.{cluster['name']}.{key}" for key in cluster if key != "name")
