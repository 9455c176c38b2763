"""The tables of a profile and the keys of each, as data: a new key is a line here.

[device]     name, description, soc, isa, arch, cpu
[[cluster]]  name, cpus, core, max_mhz: processors of one kind, one table a kind
[memory]     size_mb, type
[reach]      transport
[run]        targets, threads, and affinity (CPU numbers) or cluster (the name of one)
[protocol]   the fields of `BenchmarkProtocol`, seconds in names that end with _s
[preflight]  the fields of `compiler.preflight.Preflight`: a level for each condition, and its bounds
[expect]     text to compare with the device's fingerprint before measuring
[source]     where each fact was read and when, by its dotted key (see `profiles/sources.py`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from profiles.kinds import (
    ARCH,
    COUNT,
    CPUS,
    LEVEL,
    METRIC,
    POSITIVE,
    SECONDS,
    SOME_CPUS,
    SOME_TEXTS,
    SOURCE,
    STATUS,
    TEXT,
    TEXTS,
    WORD,
    Kind,
)


@dataclass(frozen=True)
class Table:
    """The keys a table takes and needs, or the kind that any key of it is; `repeated` for [[name]]."""

    keys: Mapping[str, Kind] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    any_key: Kind | None = None
    repeated: bool = False

    def kind(self, key: str) -> Kind | None:
        """Return what a key accepts, None for an unknown one."""
        return self.any_key or self.keys.get(key)


PROTOCOL: Mapping[str, Kind] = {
    "metric": METRIC,
    "settle_s": SECONDS,
    "warmup_s": SECONDS,
    "warmup_max_s": SECONDS,
    "round_s": POSITIVE,
    "min_rounds": COUNT,
    "max_rounds": COUNT,
    "max_seconds": POSITIVE,
    "target_width": POSITIVE,
    "unstable_width": POSITIVE,
    "cool_below_c": POSITIVE,
    "cooldown_max_s": SECONDS,
}
PREFLIGHT: Mapping[str, Kind] = {
    "charging": LEVEL,
    "battery": LEVEL,
    "battery_min_percent": POSITIVE,
    "battery_temperature": LEVEL,
    "battery_max_c": POSITIVE,
    "screen": LEVEL,
    "power_save": LEVEL,
    "thermal": LEVEL,
    "thermal_max_status": STATUS,
    "governor": LEVEL,
    "governors": SOME_TEXTS,
    "load": LEVEL,
    "load_max_per_core": POSITIVE,
}
DEVICE: Mapping[str, Kind] = {
    "name": TEXT,
    "description": TEXT,
    "soc": TEXT,
    "isa": TEXTS,
    "arch": ARCH,
    "cpu": TEXT,
}
RUN: Mapping[str, Kind] = {"targets": SOME_TEXTS, "threads": COUNT, "affinity": CPUS, "cluster": TEXT}
CLUSTER: Mapping[str, Kind] = {"name": WORD, "cpus": SOME_CPUS, "core": TEXT, "max_mhz": POSITIVE}
TABLES: Mapping[str, Table] = {
    "device": Table(DEVICE, required=("name",)),
    "reach": Table({"transport": TEXT}, required=("transport",)),
    "run": Table(RUN, required=("targets", "threads")),
    "protocol": Table(PROTOCOL),
    "expect": Table(any_key=TEXT),
    "cluster": Table(CLUSTER, required=("name", "cpus"), repeated=True),
    "memory": Table({"size_mb": COUNT, "type": TEXT}),
    "source": Table(any_key=SOURCE),
    "preflight": Table(PREFLIGHT),
}
# A pair of [protocol] of which the first may not exceed the second.
ORDERED = (
    ("min_rounds", "max_rounds"),
    ("warmup_s", "warmup_max_s"),
    ("target_width", "unstable_width"),
)
