"""A farm: several devices measure for one queue of jobs, each through a worker process of its own.

`Farm` is what callers program against; `ProcessFarm` is the farm on one host.
"""

from devices.farm.job import DeviceReport, Farm, Job
from devices.farm.limits import Limits
from devices.farm.process_farm import ProcessFarm

__all__ = ["DeviceReport", "Farm", "Job", "Limits", "ProcessFarm"]
