"""Is a device fit to be measured: each condition by itself, and what the protocol makes of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from compiler.errors import UnstableMeasurementError
from compiler.preflight import Level, Preflight
from compiler.records import DeviceState
from devices.benchmark import measure
from devices.preflight import Outcome, cores_of, preflight

FIT = DeviceState(
    0, governor="performance", load_1min=0.5, battery_percent=90.0, thermal_status="0", battery_c=30.0,
    charging=True, screen_on=False, power_save=False,
)  # fmt: skip
STRICT = Preflight(
    *(Level.REFUSE, Level.REFUSE, 50.0, Level.REFUSE, 35.0, Level.REFUSE, Level.REFUSE, Level.REFUSE, 0),
    governor=Level.REFUSE, governors=("performance", "schedutil"), load=Level.REFUSE, load_max_per_core=0.25,
)  # fmt: skip
UNFIT = {
    "charging": ({"charging": False}, "the charger is unplugged; plug it in"),
    "battery": ({"battery_percent": 49.0}, "the battery is at 49%, 50% asked for; let it charge"),
    "battery_temperature": ({"battery_c": 35.5}, "the battery has 35.5 C, at most 35 C asked for"),
    "screen": ({"screen_on": True}, "the screen is on; switch it off"),
    "power_save": ({"power_save": True}, "the low-power mode is on; leave the battery saver"),
    "thermal": ({"thermal_status": "1"}, r"status is 1 \(light\), at most 0 \(none\) asked for"),
    "governor": ({"governor": "powersave"}, "is powersave, performance or schedutil asked for"),
    "load": ({"load_1min": 2.1}, "load of the last minute is 2.1 on 8 cores, at most 0.25 a core"),
}


def outcomes(state: DeviceState, rules: Preflight) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in preflight(state, rules, 8)}


def test_a_fit_device_passes_every_check() -> None:
    assert set(outcomes(FIT, STRICT).values()) == {Outcome.PASS}
    assert list(outcomes(FIT, STRICT)) == [
        "charging", "battery", "screen", "power_save", "battery_temperature", "thermal", "governor", "load",
    ]  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("level", Level)
def test_each_condition_is_judged_alone_and_by_its_level(name: str, level: Level) -> None:
    change, words = UNFIT[name]
    found = outcomes(replace(FIT, **change), replace(STRICT, **{name: level}))
    expected = Outcome.PASS if level is Level.IGNORE else Outcome(level.value)
    assert found.pop(name) is expected
    assert set(found.values()) == {Outcome.PASS}
    (check,) = [c for c in preflight(replace(FIT, **change), STRICT, 8) if c.name == name]
    assert re.search(words, check.sentence)


def test_what_is_not_told_warns_only_where_the_profile_itself_asks_for_it() -> None:
    silent = DeviceState(0)
    assert set(outcomes(silent, Preflight()).values()) == {Outcome.UNKNOWN, Outcome.PASS}
    found = outcomes(silent, STRICT)
    assert {n for n, o in found.items() if o is Outcome.WARN} == set(UNFIT) - {"power_save", "thermal"}
    assert Outcome.REFUSE not in found.values()


@pytest.mark.parametrize(
    ("cores", "clocks", "expected"), [("4", (), 4), ("0", (1.0, 2.0), 2), ("", (), None), ("many", (), None)]
)
def test_cores_are_those_told_or_those_with_a_clock(cores: str, clocks, expected) -> None:
    assert cores_of({"cores": cores}, replace(FIT, frequency_mhz=clocks)) == expected


def refusing(profile, **rules: object):
    return replace(profile(min_rounds=5, max_rounds=5), preflight=Preflight(**rules))


def constant(name, number, n):
    return {"wall_ns": [1_000_000] * n, "cpu_ns": [1_000_000] * n}


def test_a_refusal_ends_it_before_anything_runs_and_names_all_that_is_amiss(
    instant, candidate, profile, database
) -> None:
    device = instant(constant, says=lambda _: {"charging": False, "screen_on": True})
    chosen = refusing(profile, charging=Level.REFUSE, screen=Level.REFUSE)
    with pytest.raises(UnstableMeasurementError) as caught:
        measure([candidate("a")], device, chosen, database)
    text = str(caught.value)
    assert "the charger is unplugged; plug it in" in text
    assert "the screen is on; switch it off" in text
    assert 'write charging = "warn" and screen = "warn" under [preflight] in the profile' in text
    assert caught.value.exit_code == 7
    assert device.log == []


def test_a_warning_is_told_and_recorded_and_stops_nothing(instant, candidate, profile, database) -> None:
    device = instant(constant, says=lambda _: {"charging": False})
    told = []
    (found,) = measure([candidate("a")], device, refusing(profile), database, told.append)
    assert [e.detail for e in told if e.event == "preflight"] == [
        "warn: the charger is unplugged; plug it in"
    ]
    assert found.incidents == ("preflight: the charger is unplugged",)
    assert found.stable


def test_preflight_can_be_skipped_and_the_reading_says_so(instant, candidate, profile, database) -> None:
    device = instant(constant, says=lambda _: {"power_save": True})
    chosen = refusing(profile)
    (found,) = measure([candidate("a")], device, chosen, database, skip_preflight=True)
    assert found.incidents == ("preflight: the low-power mode is on",)
    assert len(found.rounds) == 5


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"charging": True}, {"charging": False}, "the charger is unplugged"),
        ({"battery_percent": 60.0}, {"battery_percent": 19.0}, "the battery is at 19%, 20% asked for"),
        ({"power_save": False}, {"power_save": True}, "the low-power mode is on"),
    ],
)
def test_what_changes_on_the_way_ends_it_with_all_rounds_kept(
    instant, candidate, profile, database, before, after, words
) -> None:
    device = instant(constant, says=lambda d: after if len(d.log) > 4 else before)  # 2 warm, then 3 rounds
    chosen = refusing(profile, charging=Level.REFUSE, battery=Level.REFUSE)
    with pytest.raises(UnstableMeasurementError, match=f"{words}.*The 3 rounds that are done are kept"):
        measure([candidate("a")], device, chosen, database)
    assert database.measurements() == ()
    device.says = lambda _: before
    told = []
    (found,) = measure([candidate("a")], device, chosen, database, told.append)
    assert (told[0].event, told[0].rounds, len(found.rounds)) == ("resumed", 3, 5)
