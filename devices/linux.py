"""What a Linux system says of itself in /proc and /sys, read below any root folder.

Whatever a system does not tell is absent (None, or an empty tuple), never a guess.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from compiler.records import DeviceState


def read_state(root: Path = Path("/")) -> DeviceState:
    """Return the state of the system whose /proc and /sys stand below `root`."""
    cpus = root / "sys/devices/system/cpu"
    temperatures = _numbers(root / "sys/class/thermal", "thermal_zone*/temp")
    battery = _numbers(root / "sys/class/power_supply", "BAT*/capacity")
    governors = {_text(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    load = _text(root / "proc/loadavg").split()
    return DeviceState(
        time_ns=time.time_ns(),
        temperature_c=max(temperatures) / 1e3 if temperatures else None,
        frequency_mhz=tuple(khz / 1e3 for khz in _numbers(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq")),
        governor=",".join(sorted(governors)) or None,
        load_1min=float(load[0]) if load else None,
        battery_percent=battery[0] if battery else None,
    )


def read_processor(root: Path = Path("/")) -> str:
    """Return the processor's model as /proc/cpuinfo names it, "" where it does not.

    Arm kernels give numbers in the place of a name: implementer and part of each kind of core.
    """
    lines = _text(root / "proc/cpuinfo").splitlines()
    fields = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    names = [value for key, value in fields if key in ("model name", "Hardware", "cpu model")]
    if names:
        return names[0]
    makers = [value for key, value in fields if key == "CPU implementer"]
    parts = [value for key, value in fields if key == "CPU part"]
    return ", ".join(sorted({f"{maker}/{part}" for maker, part in zip(makers, parts, strict=False)}))


def _numbers(folder: Path, pattern: str) -> list[float]:
    # Natural order: cpu10 comes after cpu9, so that position i is CPU i.
    paths = sorted(folder.glob(pattern), key=lambda p: [int(n) for n in re.findall(r"\d+", str(p))])
    texts = [_text(path) for path in paths]
    return [float(text) for text in texts if re.fullmatch(r"-?\d+", text)]


def _text(path: Path) -> str:
    # A sensor may exist and refuse to be read (EIO, EPERM, ENODATA): the system does not tell.
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
