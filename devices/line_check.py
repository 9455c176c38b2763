"""A check of each line between a session and a runner on another machine.

A link may lose, repeat or damage what it carries, and a damaged digit is still a digit. On a checked
session each request bears a number of its own, `check`, and each answer ends in `crc32`: the CRC-32 of
the request as the runner got it, followed by the answer without that field. An answer that was
damaged, or that answers a damaged, lost or earlier request, does not fit (`runner_protocol.md`).
"""

from __future__ import annotations

import re
import zlib

_FIELD = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')


def take_check(request: bytes, answer: bytes) -> bytes | None:
    """Return an answer without its check, or None where it has none that fits; both without newlines."""
    found = _FIELD.search(answer)
    if found is None or int(found[1], 16) != zlib.crc32(request + answer[: found.start()]):
        return None
    return answer[: found.start()] + b"}"


def add_check(request: bytes, answer: bytes) -> bytes:
    """Return an answer with its check, as a runner gives it; both without newlines."""
    body = answer.removesuffix(b"}")
    return body + b', "crc32": "%08x"}' % zlib.crc32(request + body)
