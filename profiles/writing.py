"""A profile's tables as TOML text, in the order and layout that the profiles of this folder have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

QUOTED = ("expect", "source")  # tables whose keys hold dots


def write_toml(tables: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """Return the text; a list of tables becomes [[name]], None and empty values are left out."""
    parts = ["\n".join(f"# {line}" for line in comments)] if comments else []
    for name, content in tables.items():
        rows = content if isinstance(content, list) else [content]
        brackets = f"[[{name}]]" if isinstance(content, list) else f"[{name}]"
        parts += [f"{brackets}\n{_keys(row, name in QUOTED)}" for row in rows if _stated(row)]
    return "\n\n".join(parts) + "\n"


def _stated(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value not in (None, "", [], ())}


def _keys(row: Mapping[str, Any], quoted: bool) -> str:
    lines = (f"{_text(key) if quoted else key} = {_value(value)}" for key, value in _stated(row).items())
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) and value == int(value) else json.dumps(value)


def _text(value: str) -> str:
    # A basic string of TOML escapes as JSON does, and DEL too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
