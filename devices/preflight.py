"""Preflight: is the device fit to be measured? A list of checks, each pass, warn, refuse or unknown.

Charging, battery, screen, low-power mode, thermal status, governor and other load are compared with
what the profile accepts (`compiler.preflight`). What a device does not tell is unknown: a warning
where the profile itself asks to refuse the opposite, and nothing otherwise. A refusal ends the command
with exit code 7 and not 5: the device is there and obeys, but what it would give is no reading to
decide on.

The battery, the charger, the screen and the power mode are looked at again before each round, in the
state that is read anyway. Load is not: it is ours by then. Heat is not: the cool-down waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from compiler.errors import UnstableMeasurementError
from compiler.preflight import Level, Preflight
from compiler.records import DeviceState

DEFAULT = Preflight()
STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


class Outcome(StrEnum):
    """What a check came to."""

    PASS = "pass"
    UNKNOWN = "unknown"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Check:
    """One condition: what was found, and what to do where it is not met."""

    name: str
    outcome: Outcome
    found: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """The finding and the next step, as one line."""
        return f"{self.found}; {self.advice}" if self.advice else self.found


def preflight(state: DeviceState, rules: Preflight, cores: int | None = None) -> tuple[Check, ...]:
    """Return all checks of a state; `cores` is how many processors share its load, None if not known."""
    heat = (_battery_temperature(state, rules), _thermal(state, rules))
    return (*during(state, rules), *heat, _governor(state, rules), _load(state, rules, cores))


def during(state: DeviceState, rules: Preflight) -> tuple[Check, ...]:
    """Return the checks that are made again before each round."""
    return (_charging(state, rules), _battery(state, rules), _screen(state, rules), _power_save(state, rules))


def refuse_unfit(checks: Iterable[Check], device: str, kept: str = "") -> None:
    """Raise UnstableMeasurementError naming all refused checks; `kept` says what is not lost."""
    refused = [check for check in checks if check.outcome is Outcome.REFUSE]
    if refused:
        sentences = ". ".join(check.sentence for check in refused)
        levels = " and ".join(f'{check.name} = "warn"' for check in refused)
        raise UnstableMeasurementError(
            f"{device} is not fit to be measured: {sentences}.{' ' + kept if kept else ''} To measure it as "
            f"it is, write {levels} under [preflight] in the profile, or use `profile --skip-preflight`"
        )


def cores_of(fingerprint: Mapping[str, str], state: DeviceState) -> int | None:
    """Return how many processors a device has, as far as it tells."""
    told = fingerprint.get("cores", "")
    return int(told) if told.isdecimal() and int(told) else len(state.frequency_mhz) or None


def _charging(state: DeviceState, rules: Preflight) -> Check:
    if state.charging is None:
        return _unknown("charging", rules.charging, "whether it charges")
    found = "it is charging" if state.charging else "the charger is unplugged"
    return _judged("charging", rules.charging, state.charging, found, "plug it in")


def _battery(state: DeviceState, rules: Preflight) -> Check:
    level = state.battery_percent
    if level is None:
        return _unknown("battery", rules.battery, "its battery level")
    least = rules.battery_min_percent
    found = f"the battery is at {level:g}%, {least:g}% asked for"
    return _judged("battery", rules.battery, level >= least, found, "let it charge")


def _screen(state: DeviceState, rules: Preflight) -> Check:
    if state.screen_on is None:
        return _unknown("screen", rules.screen, "whether its screen is on")
    found = f"the screen is {'on' if state.screen_on else 'off'}"
    return _judged("screen", rules.screen, not state.screen_on, found, "switch it off")


def _power_save(state: DeviceState, rules: Preflight) -> Check:
    if state.power_save is None:
        return _unknown("power_save", rules.power_save, "whether it saves power")
    found = f"the low-power mode is {'on' if state.power_save else 'off'}"
    advice = "leave the battery saver (adb shell settings put global low_power 0)"
    return _judged("power_save", rules.power_save, not state.power_save, found, advice)


def _battery_temperature(state: DeviceState, rules: Preflight) -> Check:
    celsius = state.battery_c
    if celsius is None:
        return _unknown("battery_temperature", rules.battery_temperature, "its battery's temperature")
    most = rules.battery_max_c
    found = f"the battery has {celsius:g} C, at most {most:g} C asked for"
    return _judged("battery_temperature", rules.battery_temperature, celsius <= most, found, "let it cool")


def _thermal(state: DeviceState, rules: Preflight) -> Check:
    text = state.thermal_status
    if text is None or not text.isdecimal():
        return _unknown("thermal", rules.thermal, "its thermal status")
    status, most = int(text), rules.thermal_max_status
    found = f"the thermal status is {_status(status)}, at most {_status(most)} asked for"
    return _judged("thermal", rules.thermal, status <= most, found, "let it cool")


def _governor(state: DeviceState, rules: Preflight) -> Check:
    if not rules.governors:
        return Check("governor", Outcome.PASS, f"the governor is {state.governor or 'not told'}")
    if state.governor is None:
        return _unknown("governor", rules.governor, "its governor")
    fit = set(state.governor.split(",")) <= set(rules.governors)
    found = f"the governor is {state.governor}, {_either(rules.governors)} asked for"
    return _judged("governor", rules.governor, fit, found, "set it in scaling_governor, or state yours")


def _load(state: DeviceState, rules: Preflight, cores: int | None) -> Check:
    if state.load_1min is None or cores is None:
        return _unknown("load", rules.load, "how busy it is")
    load, most = state.load_1min, rules.load_max_per_core
    found = f"its load of the last minute is {load:g} on {cores} cores, at most {most:g} a core asked for"
    return _judged("load", rules.load, load <= most * cores, found, "end what else runs, or wait a minute")


def _judged(name: str, level: Level, fit: bool, found: str, advice: str) -> Check:
    if fit or level is Level.IGNORE:
        return Check(name, Outcome.PASS, found)
    return Check(name, Outcome(level.value), found, advice)


def _unknown(name: str, level: Level, what: str) -> Check:
    # Only a profile that asks for a condition as a must, of itself, is told that it cannot be seen.
    asked = level is Level.REFUSE and getattr(DEFAULT, name) is not Level.REFUSE
    return Check(name, Outcome.WARN if asked else Outcome.UNKNOWN, f"the device does not tell {what}")


def _status(number: int) -> str:
    return f"{number} ({STATUS[number]})" if number < len(STATUS) else str(number)


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)
