"""What a key of a profile accepts: the words for a message, and the check."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from compiler.preflight import Level
from compiler.records import Metric

ARCHITECTURES = ("x86_64", "aarch64")
DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")


@dataclass(frozen=True)
class Kind:
    """What a key accepts."""

    words: str
    accepts: Callable[[Any], bool]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(value: Any, item: Callable[[Any], bool], least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least and all(item(v) for v in value)


def _cpus(value: Any, least: int = 0) -> bool:
    return _list(value, lambda cpu: _whole(cpu, 0), least) and len(set(value)) == len(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]+", value) is not None


def _source(value: Any) -> bool:
    if not isinstance(value, str) or not ("/" in value or "the device" in value):
        return False
    try:
        return bool([date.fromisoformat(found) for found in DATE.findall(value)])
    except ValueError:
        return False


TEXT = Kind("a non-empty string", _text)
WORD = Kind("a word of letters, digits, - and _", _word)
TEXTS = Kind("a list of strings", lambda v: _list(v, _text))
SOME_TEXTS = Kind("a list of one or more strings", lambda v: _list(v, _text, 1))
COUNT = Kind("a whole number of at least 1", lambda v: _whole(v, 1))
CPUS = Kind("a list of different CPU numbers", _cpus)
SOME_CPUS = Kind("a list of one or more different CPU numbers", lambda v: _cpus(v, 1))
ARCH = Kind(f"one of {', '.join(ARCHITECTURES)}", lambda v: v in ARCHITECTURES)
SECONDS = Kind("a number of seconds, 0 or more", lambda v: _number(v) and v >= 0)
POSITIVE = Kind("a number above 0", lambda v: _number(v) and v > 0)
LEVEL = Kind(f"one of {', '.join(Level)}", lambda v: v in list(Level))
STATUS = Kind("a thermal status, 0 to 6", lambda v: _whole(v, 0) and v <= 6)
METRIC = Kind(f"one of {', '.join(Metric)}", lambda v: v in list(Metric))
SOURCE = Kind(
    "where it was read (a URL, a file, or the words `the device`) and the day, such as 2026-11-26", _source
)
