"""Unpack a Debian package: an `ar` archive that holds a tar archive of files, nothing else is needed.

Everything goes below `usr`, as on a merged system: `/lib/x` becomes `/usr/lib/x`.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from compiler.errors import DeviceError

MAGIC = b"!<arch>\n"
HEADER = 60
MERGED = ("bin", "sbin", "lib", "lib64")


def unpack(package: Path, folder: Path) -> None:
    """Unpack the files and links of a package into `folder`; DeviceError where it is none."""
    with package.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise DeviceError(f"{str(package)!r} is not a Debian package")
        _seek_data(stream, package)
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                _place(archive, member, folder)


def _seek_data(stream: IO[bytes], package: Path) -> None:
    # A member's header: name (16 bytes), dates and owners (32), size (10), and two bytes that end it.
    while header := stream.read(HEADER):
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        stream.seek(size + size % 2, 1)
    raise DeviceError(f"the Debian package {str(package)!r} holds no files")


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if not parts or ".." in parts or parts[0] == "/":
        return
    place = folder.joinpath("usr" if parts[0] in MERGED else "", *parts)
    if not member.isdir():
        place.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        place.unlink(missing_ok=True)
        place.symlink_to(_target(member.linkname, PurePosixPath(*place.relative_to(folder).parts)))
    elif member.isfile():
        content = archive.extractfile(member)
        assert content is not None
        with place.open("wb") as copy:
            shutil.copyfileobj(content, copy)
        place.chmod(0o755 if member.mode & 0o100 else 0o644)


def _target(link: str, place: PurePosixPath) -> str:
    # Absolute links would lead to the host's own files.
    parts = PurePosixPath(link).parts
    if parts[0] != "/":
        return link
    inner = parts[1:] if parts[1] not in MERGED else ("usr", *parts[1:])
    return "/".join([".."] * (len(place.parts) - 1) + list(inner))
