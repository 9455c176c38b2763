"""Devices: transports, the benchmark protocol, statistics and the measurement database.

A device knows no target: it pushes files, starts a runner and reports its own state.
"""

from devices.discovery import expand_spec, find_devices, list_devices, open_device

__all__ = ["expand_spec", "find_devices", "list_devices", "open_device"]
