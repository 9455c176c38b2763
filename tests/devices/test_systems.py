"""What Android and Linux say of themselves, read from texts."""

from __future__ import annotations

from devices import android, linux
from devices.sections import RULE, sections_script, split_sections

CPUINFO = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n"
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  level: 87
  scale: 100
  temperature: 312
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=90.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=48.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=51.5, mType=0, mName=CPU4, mStatus=0}
\tTemperature{mValue=31.2, mType=2, mName=BATTERY, mStatus=0}
Current cooling devices from HAL:
"""


def told(**sections: str) -> str:
    return "".join(f"\n{RULE}{name}\n{text}\n" for name, text in sections.items())


def test_a_phone_that_tells_everything() -> None:
    state = android.parse_state(
        told(
            thermal=THERMAL,
            battery=BATTERY,
            wake="  mWakefulness=Awake",
            low_power="1",
            zones="61000 cpu-0-0\n99000 modem",
            cpus="10 2000000 schedutil\n9 1000000 schedutil\n0 900000 powersave",
            load="3.50 3.0 2.0 1/900 4242",
        ),
        7,
    )
    assert (state.time_ns, state.thermal_status, state.temperature_c) == (7, "2", 51.5)
    assert (state.battery_percent, state.battery_c, state.charging) == (87.0, 31.2, True)
    assert (state.screen_on, state.power_save, state.load_1min) == (True, True, 3.5)
    assert (state.frequency_mhz, state.governor) == ((900.0, 1000.0, 2000.0), "powersave,schedutil")


def test_a_phone_that_denies_everything_tells_nothing() -> None:
    state = android.parse_state(told(thermal="", battery="", cpus="0 ? \n1 ? ", zones=" cpu-0-0"), 7)
    assert [getattr(state, f) for f in ("temperature_c", "thermal_status", "battery_c", "charging")] == [
        None
    ] * 4
    assert (state.screen_on, state.power_save, state.governor, state.frequency_mhz) == (None, None, None, ())
    assert android.parse_state("", 7) == android.parse_state(told(), 7)
    assert android.parse_fingerprint("") == {"system": "Android"}


def test_an_unplugged_phone_asleep() -> None:
    battery = BATTERY.replace("USB powered: true", "USB powered: false")
    state = android.parse_state(told(battery=battery, wake="mWakefulness=Dozing", low_power="null"), 7)
    assert (state.charging, state.screen_on, state.power_save) == (False, False, False)


def test_zones_stand_in_where_the_thermal_service_names_no_processor() -> None:
    zones = "61000 cpu-0-0\n-40000 broken\n99000 modem\n5 Tsensor"
    assert android.parse_state(told(zones=zones), 7).temperature_c == 61.0
    assert linux.parse_state(told(zones="41000 soc-thermal\n43500 gpu"), 7).temperature_c == 43.5


def test_a_phones_fingerprint() -> None:
    properties = (
        "[ro.product.model]: [Pixel 8]\n[ro.soc.model]: [Tensor G3]\n[ro.hardware]: []\n"
        "[ro.build.version.sdk]: [34]\n[other]: [x]"
    )
    found = android.parse_fingerprint(
        told(properties=properties, cpuinfo=CPUINFO, possible="0-8", machine="aarch64", kernel="5.15")
    )
    assert found == {
        "machine": "aarch64",
        "processor": "0x41/0xd05, 0x41/0xd0b",
        "cores": "9",
        "kernel": "5.15",
        "system": "Android",
        "model": "Pixel 8",
        "soc": "Tensor G3",
        "sdk": "34",
    }


def test_a_board() -> None:
    found = linux.parse_fingerprint(
        told(
            cpuinfo=CPUINFO,
            possible="0-3",
            machine="aarch64",
            kernel="6.6",
            model="Raspberry Pi 5",
            release="x",
        )
    )
    assert (found["model"], found["cores"], found["release"]) == ("Raspberry Pi 5", "4", "x")
    state = linux.parse_state(
        told(cpus="0 1500000 ondemand\n1 1500000 ondemand", load="0.10 1 1", supplies="55"), 7
    )
    assert (state.frequency_mhz, state.governor, state.load_1min) == ((1500.0, 1500.0), "ondemand", 0.1)
    assert state.battery_percent == 55.0 and state.temperature_c is None


def test_sections_keep_odd_output_apart() -> None:
    assert split_sections(told(a="=====\n\nx", b="")) == {"a": "=====\n\nx", "b": ""}
    assert "2>/dev/null" in sections_script({"a": "false"})
