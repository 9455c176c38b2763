"""Pins: which files of which registry a part of a bundle is made of, by SHA-256, as TOML data.

    snapshot = "20260801T000000Z"    when Debian's archive held these packages
    drop = ["usr/share/doc"]         glob patterns below the unpacked folder that a device never reads
    features = ["atomics"]           what the processor must have, in the words of /proc/cpuinfo
    features_why = "..."             who executes them

    [[package]]                      a Debian package
    name, arch, version, url, sha256

    [[wheel]]                        a wheel of the Python Package Index for aarch64
    name, version, file, sha256

`python -m devices.bundle.pin` writes all but the names and the versions of wheels anew.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

FOLDER = Path(__file__).parent
BASE = FOLDER / "base.toml"


@dataclass(frozen=True)
class Package:
    """One Debian package file."""

    name: str
    arch: str
    version: str
    url: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return unquote(self.url.rpartition("/")[2])


@dataclass(frozen=True)
class Wheel:
    """One wheel file."""

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Pins:
    """What one part of a bundle is made of, by the name of its TOML file."""

    name: str
    packages: tuple[Package, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    drop: tuple[str, ...] = ()
    snapshot: str = ""
    features: tuple[str, ...] = ()
    features_why: str = ""

    def digest(self) -> str:
        """Return a digest of the contents that these pins stand for, 12 hexadecimal digits."""
        files: tuple[Package | Wheel, ...] = (*self.packages, *self.wheels)
        text = json.dumps([sorted(file.sha256 for file in files), sorted(self.drop)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_pins(path: Path) -> Pins:
    """Return the pins in a TOML file of this project."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Pins(
        name=path.stem,
        packages=tuple(Package(**entry) for entry in document.get("package", ())),
        wheels=tuple(Wheel(**entry) for entry in document.get("wheel", ())),
        drop=tuple(document.get("drop", ())),
        snapshot=document.get("snapshot", ""),
        features=tuple(document.get("features", ())),
        features_why=document.get("features_why", ""),
    )


def runtimes() -> tuple[str, ...]:
    """Return the names of the runtimes that a bundle can bring, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml") if path != BASE))


def entry(file: Package | Wheel) -> str:
    """Return a pinned file as the TOML that `read_pins` reads."""
    lines = [f"[[{type(file).__name__.lower()}]]"]
    return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in asdict(file).items())]) + "\n"
