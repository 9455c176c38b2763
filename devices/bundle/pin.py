"""Write the pins anew: `python -m devices.bundle.pin [FILE.toml ...]`, every file of pins by default.

Debian's packages are those that `apt-get` would take from the signed lists of bookworm now; a wheel
keeps the version that its file states. Add a package or wheel by an entry with its name and, for a
package, its arch, for a wheel, its version. It needs apt-get (Debian or Ubuntu, no root) and pip.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compiler.errors import DeviceError
from devices.bundle.fetch import PIP, platform_options
from devices.bundle.pins import Package, Wheel, entry

ROOT = Path(__file__).parents[1]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = """
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: {keyring}

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: {keyring}
"""
CONFIGURATION = """
APT::Architecture "amd64"; APT::Architectures {{ "amd64"; "arm64"; }};
Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{0}/sources";
Dir::State "{0}/state"; Dir::State::lists "{0}/lists"; Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache"; Acquire::Languages "none";
"""


def main(paths: list[str]) -> int:
    """Refresh the files of pins."""
    chosen = [Path(path) for path in paths] or sorted(p for p in ROOT.rglob("*.toml"))
    with tempfile.TemporaryDirectory(prefix="edgewright-apt-") as name:
        for path in chosen:
            refresh(path, Path(name))
            sys.stderr.write(f"{path}\n")
    return 0


def refresh(path: Path, scratch: Path) -> None:
    """Write the entries of one file anew; what stands above the first one stays but for the date."""
    text = path.read_text(encoding="utf-8")
    document = tomllib.loads(text)
    files: list[Package | Wheel] = []
    if "package" in document:
        files += packages(document["package"], _apt(scratch))
    files += [wheel(stated) for stated in document.get("wheel", ())]
    head = re.split(r"^\[\[", text, maxsplit=1, flags=re.MULTILINE)[0]
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    head = re.sub(r"^snapshot = .*$", f'snapshot = "{now}"', head, flags=re.MULTILINE)
    path.write_text(head.rstrip() + "\n\n" + "\n".join(entry(f) for f in files), encoding="utf-8")


def packages(stated: list[dict[str, Any]], configuration: Path) -> list[Package]:
    """Return what apt would download for packages, in the order stated."""
    names = [f"{one['name']}:{one['arch']}" for one in stated]
    lines = _said("apt-get", "-c", str(configuration), "download", "--print-uris", "-q", *names)
    found: dict[tuple[str, str], Package] = {}
    for url, file, sha256 in re.findall(r"'(\S+)' (\S+) \d+ SHA256:(\w+)", lines):
        name, version, rest = file.replace("%3a", ":").split("_")
        arch = next(one["arch"] for one in stated if rest in (f"{one['arch']}.deb", "all.deb"))
        found[name, arch] = Package(name, arch, version, url, sha256)
    return [found[one["name"], one["arch"]] for one in stated]


def wheel(stated: dict[str, Any]) -> Wheel:
    """Return the wheel of a stated version for aarch64."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        options = ["install", "--dry-run", "--quiet", "--report", report.name, "--target", "unused"]
        requirement = f"{stated['name']}=={stated['version']}"
        _said(sys.executable, *PIP, *options, *platform_options(), requirement)
        [item] = json.loads(Path(report.name).read_text(encoding="utf-8"))["install"]
    info = item["download_info"]
    file = info["url"].rpartition("/")[2]
    return Wheel(stated["name"], stated["version"], file, info["archive_info"]["hashes"]["sha256"])


def _apt(scratch: Path) -> Path:
    """Return the configuration of an apt of its own in `scratch`, with fresh lists."""
    configuration = scratch / "apt.conf"
    if configuration.exists():
        return configuration
    for folder in ("sources", "state", "lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "state" / "status").touch()
    (scratch / "sources" / "debian.sources").write_text(SOURCES.format(keyring=KEYRING))
    configuration.write_text(CONFIGURATION.format(scratch))
    _said("apt-get", "-c", str(configuration), "update", "-q")
    return configuration


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{' '.join(command[:4])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
