"""What a device must be like before and while it is measured, as its profile states it.

Each condition has a level: `refuse` ends the measurement before it begins, `warn` says so and goes
on, `ignore` does not look. A profile that states nothing warns of what makes readings worse, and
refuses what holds the clocks down while it lasts: a low-power mode and throttling that is going on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What follows where a condition is not met."""

    IGNORE = "ignore"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Preflight:
    """The `[preflight]` table of a profile: a level for each condition, and its bounds.

    `thermal_max_status` is the highest status of Android's thermal service, 0 (none) to 6
    (shutdown), that is still fit; `governors` are the ones accepted, any where it is empty.
    """

    charging: Level = Level.WARN
    battery: Level = Level.WARN
    battery_min_percent: float = 20.0
    battery_temperature: Level = Level.WARN
    battery_max_c: float = 40.0
    screen: Level = Level.WARN
    power_save: Level = Level.REFUSE
    thermal: Level = Level.REFUSE
    thermal_max_status: int = 1
    governor: Level = Level.WARN
    governors: tuple[str, ...] = ()
    load: Level = Level.WARN
    load_max_per_core: float = 0.5
