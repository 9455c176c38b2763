"""Write the profile of a device from what the device itself tells.

It states no latency: processors by cluster, memory, and the fingerprint to compare before each
measurement. Where there are clusters, one thread runs on the fastest, if a program can be bound to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from compiler.device import Cluster, Device, DeviceProfile
from compiler.errors import DeviceError, UsageError
from devices import open_device
from devices.cores import core_named
from devices.topology import Topology, read_topology
from profiles.kinds import ARCHITECTURES
from profiles.loader import parse_profile
from profiles.writing import write_toml
from targets import list_targets

ALSO = {"arm64": "aarch64", "amd64": "x86_64"}
DETECTED_SCHEMA = "edgewright.detected/1"


@dataclass(frozen=True)
class Detected:
    """A profile, the text that states it, and the file it went to, if any."""

    profile: DeviceProfile
    text: str
    file: Path | None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        file = None if self.file is None else str(self.file)
        return {"schema": DETECTED_SCHEMA, "profile": self.profile.name, "file": file, "toml": self.text}


def detect(spec: str, out: Path | None = None, today: date | None = None) -> Detected:
    """Return the profile of the device that `spec` names, written to `out` where that is given.

    Raises DeviceError where the device cannot be reached or does not tell what it is, UsageError where
    `out` exists or the device is of no kind that profiles know.
    """
    if out is not None and out.exists():
        raise UsageError(f"{out} exists; give -o a new file, or remove it first")
    device = open_device(spec)
    day = today or date.today()
    transport, _, address = spec.partition(":")
    tables = _emulated(device, address) if transport == "emulated" else _real(device, transport)
    if out is not None:
        tables["device"]["name"] = out.stem
    tables["reach"] = {"transport": transport}
    tables["source"] = _sources(tables, day)
    text = write_toml(tables, (f"Written by `edgewright profiles detect --device {spec}` on {day}.",))
    profile = parse_profile(text, out or Path(f"{tables['device']['name']}.toml"))
    if out is not None:
        _write(out, text)
    return Detected(profile, text, out)


def _emulated(device: Device, core: str) -> dict[str, Any]:
    return _ordered(
        device={"name": f"emulated-{core}", "description": f"Emulated {core}: instructions, not time"},
        processor={"arch": "aarch64", "cpu": core},
        run={"targets": list(list_targets()), "threads": 1},
        protocol={"metric": "instructions"},
        expect=_expected(device),
    )


def _real(device: Device, transport: str) -> dict[str, Any]:
    topology = read_topology(device)
    fastest = topology.clusters[-1] if len(topology.clusters) > 1 else None
    bound = fastest if fastest is not None and _can_bind(device, fastest) else None
    name = topology.model or device.name
    where = "" if bound is None else f" on the cluster {bound.name}"
    return _ordered(
        device={
            "name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or transport,
            "description": f"{name}: one thread{where}",
            "soc": topology.soc,
            "isa": topology.isa,
        },
        processor={} if transport == "local" else _processor(topology),
        cluster=[_row(cluster) for cluster in topology.clusters],
        memory={"size_mb": topology.memory_mb},
        run={"targets": list(list_targets()), "threads": 1, "cluster": bound.name if bound else None},
        expect=_expected(device),
    )


def _ordered(
    device: dict[str, Any], processor: Mapping[str, Any], run: dict[str, Any], **others: Any
) -> dict[str, Any]:
    order = ("cluster", "memory", "reach", "run", "protocol", "expect")
    tables = {"device": {**device, **processor}} | {name: others.get(name, {}) for name in order}
    return tables | {"run": run}


def _processor(topology: Topology) -> dict[str, str]:
    """Return what code is made for; a local device is this machine, whose processor needs no name."""
    arch = ALSO.get(topology.machine, topology.machine)
    if arch not in ARCHITECTURES or (topology.abis and "arm64-v8a" not in topology.abis):
        raise UsageError(
            f"the device runs {topology.machine} with {', '.join(topology.abis) or 'no list of ABIs'}; "
            f"profiles know {', '.join(ARCHITECTURES)}, on Android arm64-v8a"
        )
    core = core_named(topology.clusters[-1].core) if topology.clusters else None
    return {"arch": arch} | ({"cpu": core.cpu(topology.features)} if core else {})


def _can_bind(device: Device, cluster: Cluster) -> bool:
    mask = f"{sum(1 << cpu for cpu in cluster.cpus):x}"
    try:
        return device.run(["taskset", mask, "true"], timeout_s=30).exit_code == 0
    except DeviceError:
        return False  # it has no taskset


def _row(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "core": cluster.core,
        "cpus": list(cluster.cpus),
        "max_mhz": cluster.max_mhz,
    }


def _expected(device: Device) -> dict[str, str]:
    return {key: value for key, value in device.fingerprint().items() if value.strip()}


def _sources(tables: Mapping[str, Any], day: date) -> dict[str, str]:
    read = f"read from the device on {day}"
    device = {
        "soc": f"{read}: ro.soc.* or ro.board.platform, Hardware of /proc/cpuinfo, or its device tree",
        "isa": f"{read}: Features or flags of /proc/cpuinfo that all processors have",
        "arch": f"{read}: uname -m",
        "cpu": f"{read}: the core of the fastest cluster; one of version 8 where SVE2 is not to be had",
    }
    found = {f"device.{key}": text for key, text in device.items() if tables["device"].get(key)}
    if tables["cluster"]:
        found["cluster"] = f"{read}: name or part number, capacity and highest frequency of each CPU"
    if tables["memory"].get("size_mb"):
        found["memory"] = f"{read}: MemTotal of /proc/meminfo, what the kernel left for programs"
    if tables["expect"]:
        found["expect"] = f"{read}: its fingerprint"
    return found


def _write(out: Path, text: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
