"""What a build is for: the target, the device profile, and the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.device import DeviceProfile
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.plan import Plan, parse_plan
from compiler.target import Target
from profiles import load_profile
from targets import get_target


@dataclass(frozen=True)
class Recipe:
    """What a build is for: the target, the device profile, the decisions and the limits.

    `table` holds what the device was measured to take, where it was; the manifest's expectation is by it.
    `donor` is the second, merged model that a plan may stitch in.
    """

    target: Target
    profile: DeviceProfile
    plan: Plan = field(default_factory=Plan)
    calibration: Sequence[tuple[Any, ...]] = ()
    max_fallback: int | None = None
    max_bytes: int | None = None
    table: LatencyTable | None = None
    donor: Graph | None = None

    @property
    def prior(self) -> Roofline:
        """What merges cost for the target before any kernel is measured."""
        return prior_of(self.target)


def prior_of(target: Target) -> Roofline:
    """Return the roofline prior with what a target states of its kernels."""
    return replace(PRIOR, depthwise_taps=target.depthwise_taps)


def resolve(profile: str | DeviceProfile, target: str | None) -> tuple[Target, DeviceProfile]:
    """Return the target and the profile; raises UsageError for unknown or unfitting names."""
    found = load_profile(profile) if isinstance(profile, str) else profile
    chosen = get_target(target or found.targets[0])
    if chosen.name not in found.targets:
        raise UsageError(
            f"the profile {found.name!r} has no target {chosen.name!r}; it has {', '.join(found.targets)}"
        )
    if missing := chosen.installed():
        raise UsageError(f"the target {chosen.name!r} is not installed: {missing}")
    return chosen, found


def read_plan(plan: str | Path | Plan | None) -> Plan:
    """Return a plan given as itself, as a path, or not at all."""
    if plan is None:
        return Plan()
    if isinstance(plan, Plan):
        return plan
    try:
        return parse_plan(Path(plan).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {plan}: {error}") from error
