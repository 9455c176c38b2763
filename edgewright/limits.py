"""When a measurement stops and on which processors it runs, where a command says other than the profile."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.device import DeviceProfile
from compiler.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """What ends a measurement: the half-width of the median's interval, rounds, seconds of rounds.

    None leaves what the profile says.
    """

    width: float | None = None
    max_rounds: int | None = None
    max_seconds: float | None = None


def limited(profile: DeviceProfile, limits: Limits) -> DeviceProfile:
    """Return a profile whose protocol stops at these limits.

    A width asked for is a condition: a reading that ends with a wider interval is not steady.
    """
    protocol = profile.protocol
    if limits.width is not None:
        protocol = replace(protocol, target_width=limits.width, unstable_width=limits.width)
    if limits.max_rounds is not None:
        least = min(protocol.min_rounds, limits.max_rounds)
        protocol = replace(protocol, max_rounds=limits.max_rounds, min_rounds=least)
    if limits.max_seconds is not None:
        protocol = replace(protocol, max_seconds=limits.max_seconds)
    return replace(profile, protocol=protocol)


def on_cluster(profile: DeviceProfile, name: str | None) -> DeviceProfile:
    """Return a profile that runs on a cluster of its processors; UsageError where it has none so called."""
    if name is None:
        return profile
    cpus = {cluster.name: cluster.cpus for cluster in profile.clusters}
    if name not in cpus:
        known = ", ".join(cpus) or "none: it states no [[cluster]]"
        raise UsageError(f"the profile {profile.name!r} has no cluster {name!r}; it has {known}")
    return replace(profile, cluster=name, affinity=cpus[name])
