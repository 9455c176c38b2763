"""Whether a device's processor has what a bundle's programs execute, told before anything is pushed."""

from __future__ import annotations

import re

from compiler.errors import DeviceError
from devices.bundle.pins import FOLDER, read_pins


def check_processor(runtime: str, cpuinfo: str, device: str) -> None:
    """Raise DeviceError where the text of /proc/cpuinfo lists features without one that the runtime needs."""
    path = FOLDER / f"{runtime}.toml"
    listed = re.search(r"^Features\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    if listed is None or not path.is_file():
        return
    pins = read_pins(path)
    missing = [feature for feature in pins.features if feature not in listed[1].split()]
    if missing:
        raise DeviceError(
            f"{device} cannot run the bundle of {runtime}: its processor has no {', '.join(missing)}, and "
            f"{pins.features_why}. Compile for another runtime, or name a program of your own in the profile"
        )
