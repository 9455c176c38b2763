"""The local device: pushing, running, and runners that go wrong."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from compiler.errors import DeviceError, UsageError
from compiler.records import RunSpec
from devices import list_devices, open_device
from devices.content import content_address
from devices.linux import read_processor, read_state
from devices.runner import start_runner
from devices.transports.local import LocalDevice

RUNNER = Path(__file__).with_name("fake_runner.py")
ODD_NAMES = ["with space", 'it\'s "quoted"', "two\nlines", "$(touch x);{a}*?", "-rf", "a=b", "\u00fc\udcff"]


@pytest.fixture
def device(tmp_path: Path) -> LocalDevice:
    return LocalDevice(tmp_path / "cache")


def start(device: LocalDevice, *arguments: str, env=None, affinity=()):
    spec = RunSpec({"runner": RUNNER}, ("{python}", "{runner}", *arguments), env or {})
    return start_runner(device, spec, affinity)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_pushed_whole_and_usable_in_commands(device, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    source = folder / name
    source.write_bytes(b"content")
    read = "import sys; sys.stdout.write(open(sys.argv[1], 'rb').read().decode())"
    done = device.run([device.interpreter(""), "-c", read, device.push(source)], {"A": "1"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, "content", "")
    assert (Path(device.push(folder)) / name).read_bytes() == b"content"
    device.pull(device.push(source), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_push_is_content_addressed_and_skips_what_is_there(device, tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(b"one")
    first = Path(device.push(source))
    stamp = first.stat().st_mtime_ns, first.stat().st_ino
    assert Path(device.push(source)) == first
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == stamp
    source.write_bytes(b"two")  # in place: the copy must not follow
    second = Path(device.push(source))
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert list(first.parent.iterdir()) == [first]


def test_the_cache_is_private_and_made_so(device, tmp_path: Path) -> None:
    (tmp_path / "cache" / "pushed").mkdir(parents=True, mode=0o755)
    (tmp_path / "f").write_text("x")
    device.push(tmp_path / "f")
    assert stat.S_IMODE((tmp_path / "cache" / "pushed").stat().st_mode) == 0o700


def test_folders_that_differ_in_a_name_or_an_empty_folder_have_different_addresses(tmp_path: Path) -> None:
    def tree(name: str, *files: str) -> str:
        for file in files:
            path = tmp_path / name / file
            (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not file.endswith("/"):
                path.write_text("x")
        return content_address(tmp_path / name)

    assert tree("a", "f", "g/h") == tree("b", "g/h", "f")
    assert len({tree("c", "f"), tree("d", "g"), tree("e", "f", "g/"), tree("f", "f", "g/h")}) == 4


def test_pushing_nothing_and_to_an_unusable_cache_are_errors(device, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        device.push(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeviceError, match="cannot use the cache"):
        LocalDevice(tmp_path / "file").push(tmp_path / "file")
    with pytest.raises(DeviceError, match="cannot pull"):
        device.pull(str(tmp_path / "none"), tmp_path / "back")


def test_run_reports_exit_code_and_output_and_takes_no_shell(device) -> None:
    done = device.run([device.interpreter(""), "-c", "import sys; print('$HOME'); sys.exit('why')"])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "$HOME\n", "why\n")
    with pytest.raises(DeviceError, match="cannot start"):
        device.run(["/no/such/program"])
    with pytest.raises(DeviceError, match="did not end within"):
        device.run([device.interpreter(""), "-c", "import time; time.sleep(600)"], timeout_s=0.2)


def test_a_program_whose_path_looks_like_a_variable_is_started(device, tmp_path: Path) -> None:
    program = tmp_path / "a=b"
    program.write_text('#!/bin/sh\nprintf "%s|" "$V" "$@"\n')
    program.chmod(0o755)
    done = device.run([str(program), "c=d", "e f"], {"V": "x y"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, "x y|c=d|e f|", "")


def test_a_session_answers_and_closes(device) -> None:
    session = start(device, env={"FAKE": "a b'\"\n{python}"})
    assert session.ready["variable"] == f"a b'\"\n{sys.executable}"
    assert session.request({"do": "echo", "text": "\u00fc\n"})["echo"] == {"do": "echo", "text": "\u00fc\n"}
    with pytest.raises(DeviceError, match="unknown request 'dance'"):
        session.request({"do": "dance"})
    assert len(session.request({"do": "time", "iterations": 4})["wall_ns"]) == 4
    session.close()
    session.close()
    assert session.channel.process.returncode == 0
    with pytest.raises(DeviceError, match="was closed"):
        session.request({"do": "echo"})


def test_a_runner_is_bound_to_the_cpus_asked_for_and_we_are_not(device) -> None:
    mine = os.sched_getaffinity(0)
    session = start(device, affinity=[max(mine)])
    assert session.ready["affinity"] == [max(mine)]
    assert os.sched_getaffinity(0) == mine
    session.close()
    with pytest.raises(DeviceError, match=r"cannot run on CPUs \[4096\]: those allowed"):
        start(device, affinity=[4096])


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--misbehave", "not-ready"), r"(?s)ended with exit code 3.*no such kernel: foo"),
        (("--misbehave", "cannot-load"), "reports: RuntimeError: bad program"),
        (("--unknown-option",), r"(?s)exit code 2.*unrecognized arguments"),
    ],
)
def test_a_runner_that_does_not_come_up_says_why(device, arguments, pattern) -> None:
    with pytest.raises(DeviceError, match=pattern):
        start(device, *arguments)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--die-at", "0"), r"(?s)SIGABRT.*about to fall\n.*the last straw"),
        (("--misbehave", "hang"), "did not answer within 0.5 s"),
        (("--misbehave", "chatter"), "not a JSON object: b'Loading model...'"),
    ],
)
def test_a_runner_that_fails_is_ended_with_its_last_words(device, arguments, pattern) -> None:
    session = start(device, *arguments)
    with pytest.raises(DeviceError, match=pattern):
        session.request({"do": "time", "iterations": 3}, timeout_s=0.5)
    assert session.channel.process.returncode is not None


def test_open_device_finds_transports_and_lists_them() -> None:
    assert open_device("local").name == "local"
    assert "local" in list_devices()
    with pytest.raises(DeviceError, match=r"'pigeon' is not a transport; known: .*local"):
        open_device("pigeon:coop")
    with pytest.raises(DeviceError, match="takes no address, got 'x'"):
        open_device("local:x")


def test_the_fingerprint_is_text_and_stays(device) -> None:
    assert device.fingerprint() == device.fingerprint()
    assert set(device.fingerprint()) == {"machine", "processor", "cores", "system", "kernel"}
    assert all(isinstance(v, str) for v in device.fingerprint().values())


def test_state_reads_what_the_system_tells_and_nothing_else(tmp_path: Path) -> None:
    bare = read_state(tmp_path)
    assert (bare.temperature_c, bare.frequency_mhz, bare.governor, bare.load_1min) == (None, (), None, None)
    files = {"proc/loadavg": "0.50 1 1 1/2 3\n", "sys/class/power_supply/BAT0/capacity": "87\n"}
    for cpu, khz in ((0, 1000000), (9, 1900000), (10, 2000000)):
        files[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"] = f"{khz}\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"] = "schedutil\n"
    files["sys/class/thermal/thermal_zone0/temp"] = "41000\n"
    files["sys/class/thermal/thermal_zone1/temp"] = "55500\n"
    files["proc/cpuinfo"] = (
        "CPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU implementer: 0x41\nCPU part: 0xd0b\n"
    )
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    state = read_state(tmp_path)
    assert (state.temperature_c, state.frequency_mhz) == (55.5, (1000.0, 1900.0, 2000.0))
    assert (state.governor, state.load_1min, state.battery_percent) == ("schedutil", 0.5, 87.0)
    assert read_processor(tmp_path) == "0x41/0xd05, 0x41/0xd0b"
