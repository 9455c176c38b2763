"""Content addresses: what a pushed file or folder is called on a device.

The address of a file is the SHA-256 of its bytes. The address of a folder is the SHA-256 of the
sorted list of its children's names, each with the child's own address; links are followed. Names
are hashed as the bytes the file system holds, with a zero byte between fields, so that no odd
name (spaces, quotes, newlines) can imitate another tree.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from compiler.errors import UsageError


def content_address(path: Path) -> str:
    """Return the 64 hexadecimal digits that address a file or folder; UsageError where there is none."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UsageError(f"cannot push {str(path)!r}: there is no such file or folder")
    return file_digest(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder(path: Path) -> str:
    total = hashlib.sha256(b"folder\0")
    for child in sorted(path.iterdir(), key=lambda p: os.fsencode(p.name)):
        total.update(os.fsencode(child.name) + b"\0" + content_address(child).encode() + b"\0")
    return total.hexdigest()
