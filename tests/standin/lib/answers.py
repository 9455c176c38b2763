"""What the stand-in phone answers: the files behind getprop, dumpsys, settings, /proc and /sys."""

import os
from pathlib import Path

import fakecpu

DEFAULTS = {
    "temp": "30",
    "cpu_temp": "",
    "battery_temp": "",
    "battery": "87",
    "plugged": "usb",
    "thermal_status": "auto",
    "governor": "schedutil",
    "max_khz": "",
    "screen": "on",
    "power_save": "off",
}
THRESHOLDS = (None, 39.0, 41.0, 43.0, 45.0, 47.0, 55.0)
CAP = (1, 1, 0.85, 0.7, 0.5, 0.4, 0.4)
GOVERNORS = ("performance", "powersave", "schedutil", "ondemand", "conservative", "userspace")
PLUG = {"none": 0, "ac": 1, "usb": 2, "wireless": 4}


def put(path, text):
    """Write a file at once; what is bound into the phone sees the old text or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{os.getpid()}")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


def check(key, value):
    """Say whether a KEY=VALUE of `phone set` is understood."""

    def number(low, high):
        return low <= float(value) <= high

    checks = {
        "temp": lambda: number(-20, 120),
        "cpu_temp": lambda: value == "" or number(-20, 150),
        "battery_temp": lambda: value == "" or number(-20, 100),
        "battery": lambda: value.isdigit() and number(0, 100),
        "plugged": lambda: value in PLUG,
        "thermal_status": lambda: value in ("auto", *"0123456"),
        "governor": lambda: value in GOVERNORS,
        "max_khz": lambda: value == "" or number(1, 1e7),
        "screen": lambda: value in ("on", "off"),
        "power_save": lambda: value in ("on", "off"),
    }
    try:
        return checks.get(key, lambda: "." in key)()
    except ValueError:
        return False


def props(cpu, port):
    """Return the phone's properties, before those that `phone set` changes."""
    names = ("brand", "name", "device", "board")
    return {
        "ro.product.manufacturer": "Stand-in",
        "ro.product.model": "Stand-in Phone",
        **{f"ro.product.{name}": "standin" for name in names},
        "ro.hardware": "standin",
        "ro.board.platform": "standin",
        "ro.soc.manufacturer": "Stand-in",
        "ro.soc.model": "STANDIN-" + cpu[-3:].upper(),
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.product.cpu.abilist": "arm64-v8a",
        "ro.product.cpu.abilist64": "arm64-v8a",
        "ro.product.cpu.abilist32": "",
        "ro.build.version.sdk": "33",
        "ro.build.version.release": "13",
        "ro.build.version.security_patch": "2023-01-01",
        "ro.build.id": "STANDIN",
        "ro.build.display.id": "STANDIN",
        "ro.build.type": "user",
        "ro.build.tags": "test-keys",
        "ro.build.characteristics": "default",
        "ro.build.fingerprint": "standin/standin/standin:13/STANDIN/1:user/test-keys",
        "ro.debuggable": "0",
        "ro.serialno": f"STANDIN{port}",
        "sys.boot_completed": "1",
    }


def render(run, port, state, cpu):
    """Write all answers of a phone in the state that `phone set` describes."""
    skin = float(state["temp"])
    hot = float(state["cpu_temp"] or skin + 6)
    battery = float(state["battery_temp"] or min(skin, 30 + (skin - 30) * 0.6))
    reached = max([0] + [i for i, limit in enumerate(THRESHOLDS) if limit and skin >= limit])
    status = reached if state["thermal_status"] == "auto" else int(state["thermal_status"])
    told = props(cpu, port) | {key: value for key, value in state.items() if "." in key}
    put(f"{run}/vendor/props", "".join(f"{key}={value}\n" for key, value in told.items()))
    _battery(run, state, battery)
    _thermal(run, state, status, (hot, hot + 1, battery, skin))
    _power(run, state)
    _clocks(run, state, status, cpu)


def _lines(pairs, form):
    return "".join(form.format(key, value) for key, value in pairs)


def _battery(run, state, degrees):
    level, plugged = int(state["battery"]), state["plugged"]
    charging = plugged != "none"
    status = 3 if not charging else 5 if level >= 100 else 2
    said = (
        ("AC powered", _truth(plugged == "ac")),
        ("USB powered", _truth(plugged == "usb")),
        ("Wireless powered", _truth(plugged == "wireless")),
        ("Dock powered", "false"),
        ("Max charging current", 500000 if charging else 0),
        ("Max charging voltage", 5000000 if charging else 0),
        ("Charge counter", level * 43000),
        ("status", status),
        ("health", 3 if degrees >= 55 else 2),
        ("present", "true"),
        ("level", level),
        ("scale", 100),
        ("voltage", 3500 + level * 8),
        ("temperature", round(degrees * 10)),
        ("technology", "Li-ion"),
    )
    put(f"{run}/vendor/dumpsys/battery", "Current Battery Service state:\n" + _lines(said, "  {}: {}\n"))
    supply = (
        ("type", "Battery"),
        ("present", 1),
        ("capacity", level),
        ("status", {2: "Charging", 3: "Discharging", 5: "Full"}[status]),
        ("temp", round(degrees * 10)),
        ("voltage_now", (3500 + level * 8) * 1000),
        ("current_now", 300000 if charging else -350000),
        ("health", "Overheat" if degrees >= 55 else "Good"),
        ("technology", "Li-ion"),
    )
    for key, value in supply:
        put(f"{run}/sys/class/power_supply/battery/{key}", f"{value}\n")


def _thermal(run, state, status, degrees):
    kinds = ((0, "CPU0"), (0, "CPU4"), (2, "BATTERY"), (3, "skin"))
    sensors = "".join(
        f"\tTemperature{{mValue={value:.1f}, mType={kind}, mName={name}, mStatus={status if kind == 3 else 0}}}\n"
        for value, (kind, name) in zip(degrees, kinds, strict=True)
    )
    listeners = "\tcallbacks: 0\n\tkilled: false\n\tbroadcasts count: -1\n"
    cooling = "".join(
        f"\tCoolingDevice{{mValue={max(0, status - 1)}, mType=2, mName=thermal-cpufreq-{first}}}\n"
        for first in (0, 4)
    )
    hot = ", ".join("NaN" if limit is None else str(limit) for limit in THRESHOLDS)
    put(
        f"{run}/vendor/dumpsys/thermalservice",
        f"IsStatusOverride: {_truth(state['thermal_status'] != 'auto')}\n"
        f"ThermalEventListeners:\n{listeners}ThermalStatusListeners:\n{listeners}"
        f"Thermal Status: {status}\nCached temperatures:\n{sensors}"
        "HAL Ready: true\nHAL connection:\n\tThermalHAL 2.0 connected: yes\n"
        f"Current temperatures from HAL:\n{sensors}Current cooling devices from HAL:\n{cooling}"
        "Temperature static thresholds from HAL:\n"
        f"\tTemperatureThreshold{{mType=3, mName=skin, mHotThrottlingThresholds=[{hot}], "
        f"mColdThrottlingThresholds=[{', '.join(['NaN'] * 7)}], mVrThrottlingThreshold=NaN}}\n",
    )
    names = ("cpu-0-0", "cpu-1-0", "battery", "skin-therm")
    for number, (value, name) in enumerate(zip(degrees, names, strict=True)):
        put(f"{run}/sys/class/thermal/thermal_zone{number}/type", f"{name}\n")
        put(f"{run}/sys/class/thermal/thermal_zone{number}/temp", f"{round(value * 1000)}\n")


def _power(run, state):
    awake, level = state["screen"] == "on", int(state["battery"])
    said = (
        ("mWakefulness", "Awake" if awake else "Asleep"),
        ("mIsPowered", _truth(state["plugged"] != "none")),
        ("mPlugType", PLUG[state["plugged"]]),
        ("mBatteryLevel", level),
        ("mBatteryLevelLow", _truth(level <= 15)),
        ("mStayOn", "false"),
        ("mProximityPositive", "false"),
        ("mBootCompleted", "true"),
        ("mHalInteractiveModeEnabled", _truth(awake)),
        ("mDeviceIdleMode", "false"),
    )
    put(
        f"{run}/vendor/dumpsys/power",
        "POWER MANAGER (dumpsys power)\n\nPower Manager State:\n"
        + _lines(said, "  {}={}\n")
        + f"\nDisplay Power: state={'ON' if awake else 'OFF'}\n"
        + f"\nBattery Saver is currently: {state['power_save'].upper()}\n",
    )
    put(f"{run}/vendor/settings/global.low_power", f"{int(state['power_save'] == 'on')}\n")
    put(f"{run}/vendor/settings/global.stay_on_while_plugged_in", "0\n")


def _clocks(run, state, status, cpu):
    root = f"{run}/sys/devices/system/cpu"
    for key in ("possible", "present", "online"):
        put(f"{root}/{key}", "0-7\n")
    put(f"{root}/offline", "\n")
    put(f"{root}/kernel_max", "7\n")
    for cluster, (capacity, steps) in enumerate(fakecpu.CPUS[cpu][4]):
        _cluster(run, state, status, cluster, steps)
        for number in range(cluster * 4, cluster * 4 + 4):
            _processor(root, number, cluster, capacity, fakecpu.CPUS[cpu])


def _cluster(run, state, status, cluster, steps):
    first, last = cluster * 4, cluster * 4 + 3
    cap = min(CAP[status], 0.7) if state["power_save"] == "on" else CAP[status]
    limit = min(steps[-1] * cap, float(state["max_khz"] or 1e9))
    top = max([step for step in steps if step <= limit] or [steps[0]])
    usual = max(step for step in steps if step <= max(steps[0], top * 0.6))
    current = {"powersave": steps[0], "performance": top}.get(state["governor"], usual)
    members = " ".join(map(str, range(first, last + 1)))
    told = (
        ("affected_cpus", members),
        ("related_cpus", members),
        ("cpuinfo_max_freq", steps[-1]),
        ("cpuinfo_min_freq", steps[0]),
        ("cpuinfo_cur_freq", current),
        ("scaling_cur_freq", current),
        ("scaling_max_freq", top),
        ("scaling_min_freq", steps[0]),
        ("scaling_governor", state["governor"]),
        ("scaling_available_governors", " ".join(GOVERNORS)),
        ("scaling_available_frequencies", " ".join(map(str, steps)) + " "),
        ("scaling_driver", "standin-cpufreq"),
    )
    for key, value in told:
        put(f"{run}/sys/devices/system/cpu/cpufreq/policy{first}/{key}", f"{value}\n")
    cooling = f"{run}/sys/class/thermal/cooling_device{cluster}"
    put(f"{cooling}/type", f"thermal-cpufreq-{first}\n")
    put(f"{cooling}/max_state", f"{len(steps) - 1}\n")
    put(f"{cooling}/cur_state", f"{len(steps) - 1 - steps.index(top)}\n")


def _processor(root, number, cluster, capacity, core):
    first = cluster * 4
    midr = 0x41 << 24 | int(core[0], 16) << 20 | 0xF << 16 | int(core[1], 16) << 4 | core[2]
    told = (
        ("cpu_capacity", capacity),
        ("online", 1),
        ("topology/core_id", number - first),
        ("topology/physical_package_id", 0),
        ("topology/cluster_id", cluster),
        ("topology/thread_siblings", f"{1 << number:02x}"),
        ("topology/thread_siblings_list", number),
        ("topology/core_siblings", "ff"),
        ("topology/core_siblings_list", "0-7"),
        ("topology/package_cpus_list", "0-7"),
        ("topology/cluster_cpus_list", f"{first}-{first + 3}"),
        ("regs/identification/midr_el1", f"0x{midr:016x}"),
    )
    for key, value in told:
        put(f"{root}/cpu{number}/{key}", f"{value}\n")
    link = Path(f"{root}/cpu{number}/cpufreq")
    if not link.is_symlink():
        link.symlink_to(f"../cpufreq/policy{first}")


def _truth(value):
    return "true" if value else "false"
