"""Bring pinned files into a folder of the host: each is fetched once, and kept only if its hash is right.

A Debian package is asked for at the mirrors that this machine's apt uses, then at Debian's own, then
at snapshot.debian.org, which keeps what has left the archive. Wheels come through pip, so that its
configuration (an index of one's own, say) holds. What came in part is gone on with.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from compiler.errors import DeviceError
from devices.bundle.pins import Package, Wheel

APT_SOURCES = Path("/etc/apt")
APT_HELPER = Path("/usr/lib/apt/apt-helper")  # apt's own downloader, with its proxies and mirrors
SNAPSHOT = "https://snapshot.debian.org/archive"
TIMEOUT_S = 60
PARTIAL = 206
GLIBCS = (17, 24, 26, 27, 28, 31, 34, 35, 36)  # manylinux_2_N that the bundle's glibc 2.36 satisfies
PIP = ("-m", "pip", "--disable-pip-version-check")


def fetch_package(package: Package, snapshot: str, folder: Path) -> Path:
    """Return a Debian package in `folder`, fetched where it is not there yet.

    Raises DeviceError with what each address answered.
    """
    place = folder / package.file
    if place.exists() and _sha256(place) == package.sha256:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    answers = []
    for address in addresses(package, snapshot):
        answer = _fetched(address, place.with_name(f"{place.name}.part"), package.sha256)
        if answer is None:
            place.with_name(f"{place.name}.part").replace(place)
            return place
        answers.append(f"{address}: {answer}")
    raise DeviceError(
        f"cannot fetch the Debian package {package.name} {package.version} for {package.arch}, pinned to "
        f"sha256 {package.sha256}:\n  " + "\n  ".join(answers) + "\nA version that has left the archive is "
        "replaced by `python -m devices.bundle.pin` in a checkout of edgewright. Without a network, lay "
        f"the file at {str(place)!r}"
    )


def fetch_wheels(wheels: Sequence[Wheel], folder: Path) -> list[Path]:
    """Return wheels in `folder`, those that are missing fetched by pip, which checks their hashes.

    Raises DeviceError with pip's last words.
    """
    missing = [w for w in wheels if not (folder / w.file).exists() or _sha256(folder / w.file) != w.sha256]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial") as name:
            _download(missing, Path(name))
            for wheel in missing:
                (Path(name) / wheel.file).replace(folder / wheel.file)
    return [folder / wheel.file for wheel in wheels]


def addresses(package: Package, snapshot: str) -> list[str]:
    """Return where a package may be found, most likely first."""
    archive, _, path = package.url.partition("/pool/")
    name = archive.rpartition("/")[2]
    found = [f"{mirror}/pool/{path}" for mirror in _mirrors(name)]
    kept = [f"{SNAPSHOT}/{name}/{snapshot}/pool/{path}"] if snapshot else []
    return list(dict.fromkeys([*found, package.url, *kept]))


def platform_options() -> list[str]:
    """Return pip's options for wheels of CPython 3.11 on aarch64 Linux."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in GLIBCS] + ["manylinux2014_aarch64"]
    options = ["--only-binary=:all:", "--no-deps", "--implementation=cp", "--python-version=311"]
    options += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    return options + [f"--platform={platform}" for platform in platforms]


def _mirrors(archive: str) -> Iterator[str]:
    # Either form of apt's sources writes an address as one word that ends with the archive's name.
    for path in sorted(APT_SOURCES.glob("sources.list*")) + sorted(APT_SOURCES.glob("sources.list.d/*")):
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                if not line.lstrip().startswith("#"):
                    yield from re.findall(rf"https?://\S+/{re.escape(archive)}(?=/?(?:\s|$))", line)


def _fetched(address: str, part: Path, sha256: str) -> str | None:
    """Fetch an address into `part`; return what is wrong with it, None where it is what was pinned."""
    try:
        _get(address, part)
    except OSError as error:  # urllib's errors are OSErrors too
        return str(error)
    found = _sha256(part)
    if found == sha256:
        return None
    part.unlink()
    return f"what it gives has sha256 {found}"


def _get(address: str, part: Path) -> None:
    if APT_HELPER.exists():
        done = subprocess.run(
            [APT_HELPER, "download-file", address, part], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(_last_line(done.stderr))
        return
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        stream = part.open("ab" if answer.status == PARTIAL else "wb")
        with stream:
            shutil.copyfileobj(answer, stream)


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    pinned = folder / "requirements.txt"
    pinned.write_text("".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels))
    command = [sys.executable, *PIP, "download", "--quiet", "--require-hashes", *platform_options()]
    done = subprocess.run(
        [*command, "--dest", folder, "--requirement", pinned], capture_output=True, text=True, check=False
    )
    if done.returncode:
        names = ", ".join(f"{w.name} {w.version}" for w in wheels)
        raise DeviceError(
            f"pip cannot fetch the pinned wheels {names} for aarch64: {_last_line(done.stderr)}\nWithout a "
            f"network, lay them into {str(folder.parent)!r}: {', '.join(w.file for w in wheels)}"
        )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("E:", "ERROR:"))] or text.splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
