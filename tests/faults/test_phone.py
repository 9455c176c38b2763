"""Faults on the genuine adbd of the stand-in phone: each ends in a clear DeviceError, and nothing is lost."""

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.errors import DeviceError, UnstableMeasurementError
from compiler.preflight import Level, Preflight
from compiler.records import RunSpec
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from tests.faults.standin import StandIn
from tests.standin_phone import made_phone

pytestmark = pytest.mark.target

FAKE_RUNNER = Path(__file__).parents[1] / "devices" / "fake_runner.py"
ROUNDS = 2
PIECE = 2 << 20
PROTOCOL = BenchmarkProtocol(
    settle_s=0,
    warmup_s=0,
    warmup_max_s=0,
    round_s=0.01,
    min_rounds=ROUNDS,
    max_rounds=ROUNDS,
    target_width=1e-9,
)
PROFILE = DeviceProfile("standin", "", "adb", ("fake",), threads=1, protocol=PROTOCOL)
WAYS = ("direct", pytest.param("server", marks=pytest.mark.slow))  # each case takes seconds of emulation
PATIENCE_S = 60


@pytest.fixture(scope="session")
def kit():
    """The folder of a kit whose phone is made."""
    return made_phone()


@pytest.fixture
def phone(kit):
    """A phone of its own for a test, and forgotten afterwards."""
    made = StandIn(kit)
    made.start("--wipe")
    made.options = ()
    yield made
    made.forget()


@pytest.fixture
def opened(adb, phone, tmp_path, monkeypatch):
    """Open the phone one way or the other; nothing of this machine's user is read."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def open_(way: str):
        spec = f"adb:direct:{phone.serial}" if way == "direct" else f"adb:server@{adb.port}:{phone.serial}"
        return open_device(spec, tmp_path / "cache")

    adb("start-server")
    yield open_
    adb("disconnect", phone.serial)


@contextmanager
def when(condition, act):
    """Act in a thread as soon as a condition holds; it must come to hold."""
    acted = []

    def watch():
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not condition():
            time.sleep(0.005)
        if condition():
            act()
            acted.append(True)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert acted, "what was waited for never came"


def check_refusal(caught, *words: str) -> None:
    assert caught.value.exit_code == 5
    for word in words:
        assert word in str(caught.value), str(caught.value)


def candidate(phone: StandIn, name: str = "a", *options: str) -> Candidate:
    command = ("python3", "{runner}", "--name", name, *options)
    return Candidate(name, f"artifact-{name}", "graph", "plan", RunSpec({"runner": FAKE_RUNNER}, command))


def rounds_of(path: Path) -> list[tuple[int, ...]]:
    with MeasurementDatabase(path) as database:
        return [round_.samples for row in database._rows() for round_ in database.rounds(row.id)]


def measure_until(device, path: Path, candidates, at: int, act, profile=PROFILE) -> list[str]:
    """Measure, and act after round `at`; return the events."""
    events = []

    def report(event):
        events.append(event.event)
        if events.count("round") == at and event.event == "round":
            act()

    with MeasurementDatabase(path) as database, closing(device):
        measure(candidates, device, profile, database, report, retries=0)
    return events


def write_random(path: Path, size: int) -> str:
    path.write_bytes(random.Random(size).randbytes(size))
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The link breaks


def counted(device, sent: list[int], act=lambda: None):
    """Have a device note the bytes of each block it sends, and act when a block is about to be sent."""
    send = device.shell.send

    def note(blocks):
        for block in blocks:
            sent.append(len(block))
            act()
            yield block

    device.shell.send = lambda blocks, *rest: send(note(blocks), *rest)
    device.storage = replace(device.storage, chunk=PIECE)
    return device


@pytest.mark.parametrize("way", WAYS)
def test_killed_during_a_push_the_next_one_goes_on_with_the_pieces(way, phone, opened, tmp_path):
    digest, size = write_random(tmp_path / "big", 4 * PIECE - 1), 4 * PIECE - 1
    sent = []
    device = counted(opened(way), sent, lambda: phone.unplug() if sum(sent) > 2.5 * PIECE else None)
    with pytest.raises(DeviceError) as caught:
        device.push(tmp_path / "big")
    check_refusal(caught, phone.serial, "lost")
    phone.stop()
    there = [piece.stat().st_size for piece in phone.data.glob("edgewright-*/partial/*/[0-9]*")]
    assert there == [PIECE] * 2
    phone.start()
    again = counted(opened(way), sent := [])
    path = again.push(tmp_path / "big")
    assert sum(sent) == size - sum(there)
    assert again.run(["sha256sum", path]).stdout.split()[0] == digest
    sent.clear()
    assert again.push(tmp_path / "big") == path and sent == []
    again.close()


class Sink:
    """A file that acts once it has been written to."""

    def __init__(self, file, act):
        self.file, self.act = file, act

    def write(self, data):
        self.act()
        return self.file.write(data)


@pytest.mark.parametrize("way", WAYS)
def test_killed_during_a_pull_no_half_file_is_left(way, phone, opened, tmp_path):
    write_random(tmp_path / "big", 16 << 20)
    device = opened(way)
    remote, receive = device.push(tmp_path / "big"), device.shell.receive
    device.shell.receive = lambda path, sink: receive(path, Sink(sink, phone.unplug))
    (tmp_path / "back").mkdir()
    with pytest.raises(DeviceError) as caught:
        device.pull(remote, tmp_path / "back" / "file")
    check_refusal(caught, phone.serial, "lost")
    assert list((tmp_path / "back").iterdir()) == []
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_killed_during_a_command_it_is_said_at_once(way, phone, opened):
    device = opened(way)
    with when((phone.data / "running").exists, phone.unplug), pytest.raises(DeviceError) as caught:
        device.run(["sh", "-c", "touch /data/local/tmp/running; sleep 1000"], timeout_s=3000)
    check_refusal(caught, phone.serial, "lost")  # and not that it did not end
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_unplugged_between_rounds_it_goes_on_where_it_stopped(way, phone, opened, tmp_path):
    path = tmp_path / "m.sqlite"
    with pytest.raises(DeviceError) as caught:
        measure_until(opened(way), path, [candidate(phone)], 1, phone.stop)
    check_refusal(caught, phone.serial)
    before = rounds_of(path)
    assert len(before) == 1
    phone.start()
    events = measure_until(opened(way), path, [candidate(phone)], 99, None)
    assert events[0] == "resumed" and events.count("round") == ROUNDS - 1
    assert rounds_of(path)[:1] == before and len(rounds_of(path)) == ROUNDS


def test_killed_during_a_round_it_loses_that_round_only(phone, opened, tmp_path):
    path, slow = tmp_path / "m.sqlite", candidate(phone, "a", "--delay", "1")
    unplug = threading.Timer(0.5, phone.unplug)
    with pytest.raises(DeviceError) as caught:
        measure_until(opened("direct"), path, [slow], 1, unplug.start)
    unplug.join()
    check_refusal(caught, phone.serial, "lost")
    assert len(rounds_of(path)) == 1


# Keys


@pytest.fixture
def keys(adb, opened, tmp_path):
    """A key of ours that the direct way uses, the adb server's, and a stranger's: paths of the public ones."""
    pytest.importorskip("adb_shell", reason="adb-shell is missing: pip install edgewright[android]")
    from devices.transports.adb.keys import default_folder, load_keys

    load_keys(default_folder())
    load_keys(tmp_path / "stranger")
    shared = tmp_path / "ours.pub"
    ours = [default_folder() / "adbkey.pub", adb.home / ".android" / "adbkey.pub"]
    shared.write_text("".join(path.read_text().strip() + "\n" for path in ours))
    return shared, tmp_path / "stranger" / "adbkey.pub"


@pytest.mark.parametrize("way", WAYS)
def test_a_key_the_phone_does_not_know_is_told_with_what_to_do(way, phone, opened, keys):
    ours, stranger = keys
    phone.stop()
    phone.start("--secure", "--key", str(stranger))
    with pytest.raises(DeviceError) as caught:
        opened(way)
    check_refusal(caught, phone.serial, "accept the prompt on the phone, then run again")
    phone.stop()
    phone.start("--secure", "--key", str(ours))
    assert opened(way).run(["echo", "in"]).stdout == "in\n"


def test_a_key_taken_back_midway_keeps_the_rounds(phone, opened, keys, tmp_path):
    ours, stranger = keys
    phone.stop()
    phone.start("--secure", "--key", str(ours))
    path = tmp_path / "m.sqlite"

    def take_back():
        phone.stop()
        phone.start("--secure", "--key", str(stranger))

    with pytest.raises(DeviceError) as caught:
        measure_until(opened("server"), path, [candidate(phone)], 1, take_back)
    check_refusal(caught, phone.serial)
    with pytest.raises(DeviceError) as caught:
        opened("server")
    check_refusal(caught, "accept the prompt")
    phone.stop()
    phone.start("--secure", "--key", str(ours))
    assert measure_until(opened("server"), path, [candidate(phone)], 99, None).count("round") == ROUNDS - 1
    assert len(rounds_of(path)) == ROUNDS


# Storage


@pytest.mark.parametrize("way", WAYS)
def test_full_storage_is_said_and_what_fits_still_goes(way, phone, opened, tmp_path):
    phone.stop()
    phone.start("--space", "16")
    (tmp_path / "folder").mkdir()
    write_random(tmp_path / "big", 24 << 20)
    write_random(
        tmp_path / "folder" / "half", 9 << 20
    )  # the archive fits, and what is in it beside it does not
    write_random(tmp_path / "small", 1 << 20)
    device = opened(way)
    for path in ("big", "folder", "folder"):  # twice: what the first left behind must not be in the way
        with pytest.raises(DeviceError) as caught:
            device.push(tmp_path / path)
        check_refusal(caught, phone.serial, "No space left on device")
    assert device.run(["cat", device.push(tmp_path / "small")]).exit_code == 0
    device.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_cannot_be_written_is_said(way, phone, opened, tmp_path):
    write_random(tmp_path / "file", 1000)
    device = opened(way)
    phone.data.chmod(0o555)
    with pytest.raises(DeviceError) as caught:
        device.push(tmp_path / "file")
    check_refusal(caught, phone.serial, "Permission denied")
    phone.data.chmod(0o755)
    device.push(tmp_path / "file")
    device.close()


# Runners


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--die-at", "2"), ("SIGABRT", "the last straw")),
        (("--misbehave", "chatter"), ("Loading model", "not a JSON object")),
        (("--misbehave", "not-ready"), ("exit code 3", "no such kernel")),
        (("--misbehave", "cannot-load"), ("RuntimeError: bad program",)),
    ],
)
def test_a_runner_that_goes_wrong_is_quoted_and_leaves_no_process(options, words, phone, opened, tmp_path):
    device = opened("direct")
    with pytest.raises(DeviceError) as caught:
        measure_until(device, tmp_path / "m.sqlite", [candidate(phone, "a", *options)], 99, None)
    check_refusal(caught, phone.serial, *words)
    assert "fake_runner" not in device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
    device.close()


def test_a_runner_that_hangs_is_ended_with_the_whole_of_it(phone, opened):
    device = opened("server")
    session = device.start(["python3", device.push(FAKE_RUNNER), "--misbehave", "hang"], {}, ())
    with pytest.raises(DeviceError) as caught:
        session.request({"do": "echo"}, timeout_s=2)
    check_refusal(caught, phone.serial, "did not answer within 2 s and was ended")
    assert "fake_runner" not in device.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout


# The phone's state


FIT = Preflight(charging=Level.REFUSE, battery=Level.REFUSE)
COOL = replace(PROTOCOL, cool_below_c=45.0, cooldown_max_s=0.5)


@pytest.mark.parametrize(
    ("change", "back", "words"),
    [
        ({"temp": 50}, {"temp": 30}, ("after 0.5 s of waiting, below 45 C",)),
        ({"battery": 10}, {"battery": 80}, ("the battery is at 10%, 20% asked for",)),
    ],
)
def test_a_phone_that_is_fit_no_more_ends_it_with_7_and_goes_on_when_it_is(
    change, back, words, phone, opened, tmp_path
):
    path, chosen = tmp_path / "m.sqlite", replace(PROFILE, protocol=COOL, preflight=FIT)
    with pytest.raises(UnstableMeasurementError) as caught:
        measure_until(opened("direct"), path, [candidate(phone)], 1, lambda: phone.set(**change), chosen)
    assert caught.value.exit_code == 7 and all(word in str(caught.value) for word in words), caught.value
    assert len(rounds_of(path)) == 1
    phone.set(**back)
    events = measure_until(opened("direct"), path, [candidate(phone)], 99, None, chosen)
    assert "resumed" in events and len(rounds_of(path)) == ROUNDS


def test_rounds_under_another_governor_are_kept_and_take_no_part(phone, opened, tmp_path):
    path = tmp_path / "m.sqlite"
    more = replace(PROFILE, protocol=replace(PROTOCOL, min_rounds=4, max_rounds=4))
    measure_until(
        opened("direct"), path, [candidate(phone)], 3, lambda: phone.set(governor="powersave"), more
    )
    with MeasurementDatabase(path) as database:
        (found,) = database.measurements()
    assert len(found.rounds) == 4 and [r.noisy for r in found.rounds] == [False, False, False, True]
    assert found.statistics.count == sum(len(r.samples) for r in found.rounds[:3])


# The command line


def test_the_command_line_ends_with_5_and_one_sentence(phone, opened, tmp_path):
    phone.stop()
    command = [sys.executable, "-m", "edgewright.cli", "devices", f"adb:direct:{phone.serial}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 5 and done.stdout == ""
    assert (
        phone.serial in done.stderr and "cannot be reached" in done.stderr and "Traceback" not in done.stderr
    )
