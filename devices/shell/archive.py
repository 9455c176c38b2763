"""A folder as one file that is the same whenever the content is the same."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

INSIDE = "content"


def write_archive(folder: Path, archive: Path) -> None:
    """Write the content of a folder, links followed, as a GNU archive below the name `content`.

    Owners and times are left out and names sorted: an interrupted push can go on with it.
    """
    with tarfile.open(
        archive, "w", format=tarfile.GNU_FORMAT, dereference=True, errors="surrogateescape"
    ) as tar:
        _add(tar, folder, INSIDE)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    # By hand: `tar.add` sorts names as text, and hard links it meets twice become references.
    tar.add(path, name, recursive=False, filter=_plain)
    if path.is_dir():
        for child in sorted(path.iterdir(), key=lambda p: os.fsencode(p.name)):
            _add(tar, child, f"{name}/{child.name}")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o700 if entry.isdir() or entry.mode & 0o100 else 0o600
    return entry
