"""What a Linux system says of itself in /proc and /sys: below any root folder, or through a shell.

Whatever a system does not tell is absent (None, or an empty tuple), never a guess. Unverified on
hardware is what the kernels of the single boards tell: some Raspberry Pi and Jetson kernels name their
zones and supplies differently.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compiler.records import DeviceState
from devices.sections import sections_script, split_sections

# `read` is the shell's own: a phone has a hundred zones, and a process for each would take a second.
STATE_COMMANDS = {
    "zones": "for z in /sys/class/thermal/thermal_zone*; do t=; v=; read -r t <$z/type; read -r v <$z/temp; "
    'echo "$v $t"; done',
    "cpus": "for c in /sys/devices/system/cpu/cpu[0-9]*; do f=; g=; read -r f <$c/cpufreq/scaling_cur_freq; "
    'read -r g <$c/cpufreq/scaling_governor; echo "${c##*/cpu} ${f:-?} $g"; done',
    "load": "read -r l </proc/loadavg; echo $l",
}
STATE_SCRIPT = sections_script(
    {
        **STATE_COMMANDS,
        "supplies": 'for b in /sys/class/power_supply/BAT*; do read -r v <$b/capacity; echo "$v"; done',
    }
)
FINGERPRINT_COMMANDS = {
    "cpuinfo": "cat /proc/cpuinfo",
    "possible": "cat /sys/devices/system/cpu/possible",
    "machine": "uname -m",
    "kernel": "uname -r",
}
FINGERPRINT_SCRIPT = sections_script(
    {
        **FINGERPRINT_COMMANDS,
        "model": "tr -d '\\0' </proc/device-tree/model",
        "release": '. /etc/os-release; echo "$PRETTY_NAME"',
    }
)


def parse_state(text: str, time_ns: int) -> DeviceState:
    """Read what STATE_SCRIPT printed."""
    told = split_sections(text)
    supplies = [float(line) for line in told.get("supplies", "").split() if line.isdigit()]
    return system_state(told, time_ns, battery_percent=supplies[0] if supplies else None)


def parse_fingerprint(text: str) -> Mapping[str, str]:
    """Read what FINGERPRINT_SCRIPT printed; what a system does not tell is left out."""
    told = split_sections(text)
    named = {"system": "Linux", "model": told.get("model", ""), "release": told.get("release", "")}
    return {key: value for key, value in {**parse_system(told), **named}.items() if value}


def system_state(told: Mapping[str, str], time_ns: int, **known: Any) -> DeviceState:
    """Return the state that the sections of STATE_COMMANDS tell, and what is known besides.

    The temperature is that of the hottest processor, of any zone where none is called one.
    """
    zones = [line.partition(" ")[::2] for line in told.get("zones", "").splitlines()]
    degrees = [(float(v) / 1e3, kind) for v, kind in zones if re.fullmatch(r"-?\d+", v)]
    processors = [v for v, kind in degrees if "cpu" in kind.lower()]
    cpus = sorted((line.split() for line in told.get("cpus", "").splitlines()), key=lambda c: int(c[0]))
    governors = {cpu[2] for cpu in cpus if len(cpu) == 3}
    load = told.get("load", "").split()
    state = DeviceState(
        time_ns=time_ns,
        temperature_c=max(processors or [v for v, _ in degrees], default=None),
        frequency_mhz=tuple(int(cpu[1]) / 1e3 for cpu in cpus if cpu[1].isdigit()),
        governor=",".join(sorted(governors)) or None,
        load_1min=float(load[0]) if load else None,
    )
    return replace(state, **{key: value for key, value in known.items() if value is not None})


def parse_system(told: Mapping[str, str]) -> dict[str, str]:
    """Return machine, processor, cores and kernel from the sections of FINGERPRINT_COMMANDS."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", told.get("possible", ""))
    cores = sum(int(high or low) - int(low) + 1 for low, high in spans)
    return {
        "machine": told.get("machine", ""),
        "processor": processor_name(told.get("cpuinfo", "")),
        "cores": str(cores or ""),
        "kernel": told.get("kernel", ""),
    }


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
    """Return the processor's model as /proc/cpuinfo names it, "" where it does not."""
    return processor_name(_text(root / "proc/cpuinfo"))


def processor_name(cpuinfo: str) -> str:
    """Return the model that the text of /proc/cpuinfo names, "" where there is none.

    Arm kernels give numbers in the place of a name: implementer and part of each kind of core.
    """
    lines = cpuinfo.splitlines()
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
