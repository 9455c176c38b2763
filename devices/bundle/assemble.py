"""Assemble the folders of a bundle in a cache of the host, once for each set of pins.

    base     Debian's arm64 glibc and Python 3.11, below `usr`: also the root of the emulated boards
    a site   what one runtime adds to Python's path

A folder gets its name, which holds the digest of its pins, only when it is whole. Python's modules are
compiled here: an interpreter on a phone must not write beside them, and would else compile at each start.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.errors import DeviceError
from devices.bundle.debian import unpack
from devices.bundle.fetch import fetch_package, fetch_wheels
from devices.bundle.pins import BASE, FOLDER, Pins, read_pins, runtimes

DOWNLOADS = "downloads"


def base(cache: Path) -> Path:
    """Return the folder with glibc and Python for aarch64; DeviceError where it cannot be had."""
    return assembled(read_pins(BASE), cache, compiled=True)


def site(cache: Path, runtime: str) -> Path:
    """Return the folder with the packages of a runtime; DeviceError where there is no bundle of it."""
    if runtime not in runtimes():
        raise DeviceError(
            f"there is no bundle of the runtime {runtime!r} for a device that has none; there are "
            f"bundles of {', '.join(runtimes())}"
        )
    return assembled(read_pins(FOLDER / f"{runtime}.toml"), cache, compiled=True)


def assembled(pins: Pins, cache: Path, compiled: bool = False) -> Path:
    """Return the folder that pins stand for in `cache`, made where it is not there yet."""
    place = cache / "bundles" / f"{pins.name}-{pins.digest()}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.parent / f".{pins.name}.lock"):
        if not place.is_dir():
            make_folder(place, lambda folder: _fill(folder, pins, cache / DOWNLOADS, compiled))
    return place


def make_folder(place: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a new folder, and give it its name when it is whole."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".partial") as name:
        folder = Path(name) / "new"
        folder.mkdir()
        fill(folder)
        try:
            folder.replace(place)
        except OSError:
            if not place.is_dir():  # else another process made the same meanwhile
                raise


def _fill(folder: Path, pins: Pins, downloads: Path, compiled: bool) -> None:
    for package in pins.packages:
        unpack(fetch_package(package, pins.snapshot, downloads), folder)
    for wheel in fetch_wheels(pins.wheels, downloads):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for pattern in pins.drop:
        for path in list(folder.glob(pattern)):
            _remove(path)
    for path in [p for p in folder.rglob("*") if p.is_symlink() and not p.exists()]:
        path.unlink()  # it led to what was dropped, or to what another system would have
    if compiled:
        _compile(folder)


def _compile(folder: Path) -> None:
    # By content, not by date: a transport need not keep dates. In a process of its own, for compileall
    # forks its workers, which a process with threads must not. Packages carry modules that do not
    # compile, templates and tests of syntax: no failure.
    command = [sys.executable, "-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, "-s", str(folder), str(folder)], check=False, stdin=subprocess.DEVNULL)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Two processes that want the same folder: the second waits and finds it made.
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
