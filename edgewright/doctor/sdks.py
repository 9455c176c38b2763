"""The runtimes' packages against the versions that edgewright's own metadata asks for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from edgewright.doctor.finding import Finding, Status, Surroundings

EXTRAS = ("executorch", "litert", "onnx", "tvm", "android", "ssh")


def check(here: Surroundings) -> Iterator[Finding]:
    """Compare what is installed with the pins of each extra."""
    try:
        required = [Requirement(text) for text in metadata.requires("edgewright") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            Status.WARN,
            "edgewright is not installed, so its pins are unknown",
            "pip install -e .",
        )
        return
    for extra in EXTRAS:
        wanted = [r for r in required if _only_with(r, extra)]
        if wanted:
            yield compare(extra, {str(r): (r, _version(r.name)) for r in wanted})


def compare(extra: str, found: dict[str, tuple[Requirement, str | None]]) -> Finding:
    """Return the finding for the packages of one extra."""
    name, install = f"packages for {extra}", f"pip install 'edgewright[{extra}]'"
    missing = [r.name for r, version in found.values() if version is None]
    wrong = [
        f"{r.name} {version} (needs {r.specifier})"
        for r, version in found.values()
        if version is not None and not r.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        return Finding(name, Status.FAIL, f"of another version: {', '.join(wrong)}", install)
    if missing:
        return Finding(name, Status.WARN, f"not installed: {', '.join(missing)}", install)
    return Finding(name, Status.PASS, ", ".join(f"{r.name} {version}" for r, version in found.values()))


def _only_with(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    own = requirement.name == "edgewright"
    return (
        marker is not None
        and not own
        and marker.evaluate({"extra": extra})
        and not marker.evaluate({"extra": ""})
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
