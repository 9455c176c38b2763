"""Is everything there to compile for a device and measure on it? One file a check.

`CHECKS` look at this machine, `DEVICE_CHECKS` at the device that is named. A check yields findings; it never
starts a server or changes anything. One that raises or takes too long becomes a finding itself.
"""

from edgewright.doctor.examination import CHECKS, DEVICE_CHECKS, examine
from edgewright.doctor.finding import Finding, Status, Surroundings

__all__ = ["CHECKS", "DEVICE_CHECKS", "Finding", "Status", "Surroundings", "examine"]
