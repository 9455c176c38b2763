"""What an Android phone says of itself: two scripts, and readers of what they print.

One call each, and whatever a phone denies (SELinux hides much of /sys from the shell) is absent.
Checked against the texts of Android 13 and the stand-in phone; on hardware it is unverified: which thermal
zones and clocks a given phone lets the shell read, and whether `settings` and `dumpsys` word it the same
on releases before 10 (there is no thermal service then) and after 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from compiler.records import DeviceState
from devices import linux
from devices.sections import sections_script, split_sections

HAL_CPU = "0"  # mType of a processor's temperature in the thermal HAL

STATE_SCRIPT = sections_script(
    {
        "thermal": "dumpsys thermalservice",
        "battery": "dumpsys battery",
        "wake": "dumpsys power | grep -m 1 mWakefulness=",
        "low_power": "settings get global low_power",
        **linux.STATE_COMMANDS,
    }
)
PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc_manufacturer": "ro.soc.manufacturer",
    "soc": "ro.soc.model",
    "platform": "ro.board.platform",
    "hardware": "ro.hardware",
    "abis": "ro.product.cpu.abilist",
    "sdk": "ro.build.version.sdk",
    "build": "ro.build.fingerprint",
}
FINGERPRINT_SCRIPT = sections_script({"properties": "getprop", **linux.FINGERPRINT_COMMANDS})


def parse_state(text: str, time_ns: int) -> DeviceState:
    """Read what STATE_SCRIPT printed."""
    told = split_sections(text)
    battery = _fields(told.get("battery", ""))
    wake = re.search(r"mWakefulness=(\w+)", told.get("wake", ""))
    status = re.search(r"^\s*Thermal Status: (\d)", told.get("thermal", ""), re.MULTILINE)
    tenths = _number(battery.get("temperature"))
    level, scale = _number(battery.get("level")), _number(battery.get("scale")) or 100.0
    powered = [value for key, value in battery.items() if key.endswith(" powered")]
    return linux.system_state(
        told,
        time_ns,
        temperature_c=_hal_temperature(told.get("thermal", "")),
        thermal_status=status[1] if status else None,
        battery_c=None if tenths is None else tenths / 10,
        battery_percent=None if level is None else 100 * level / scale,
        charging="true" in powered if powered else None,
        screen_on=wake[1] == "Awake" if wake else None,
        # A setting that was never set is "null", and off.
        power_save={"1": True, "0": False, "null": False}.get(told.get("low_power", "").strip()),
    )


def parse_fingerprint(text: str) -> Mapping[str, str]:
    """Read what FINGERPRINT_SCRIPT printed; what a phone does not tell is left out."""
    told = split_sections(text)
    properties = dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]$", told.get("properties", ""), re.MULTILINE))
    named = {key: properties.get(name, "") for key, name in PROPERTIES.items()}
    found = {**linux.parse_system(told), "system": "Android", **named}
    return {key: value for key, value in found.items() if value}


def _hal_temperature(text: str) -> float | None:
    """Return the hottest processor the thermal HAL tells now; the cached list, above it, is older."""
    current = text.partition("Current temperatures from HAL:")[2] or text
    values = re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=(\d+)", current)
    told = [float(value) for value, kind in values if kind == HAL_CPU]
    return max(told) if told else None


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"-?\d+(\.\d+)?", text) else None
