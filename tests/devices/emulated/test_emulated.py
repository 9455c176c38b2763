"""The emulated boards without an emulator: what they say they are, and how counts are read."""

import struct

import pytest

from compiler.errors import DeviceError
from devices import list_devices, open_device
from devices.transports.emulated import TRANSPORT, emulator
from devices.transports.emulated.cores import CORES, cpuinfo, host_processors
from devices.transports.emulated.counting import CLOCK, HEADER, MARKS, REFUSED, ROOM, CountingSession, Tally
from profiles import load_profile


class Runner:
    """A session that marks as the plugin would, and says what it was asked."""

    def __init__(self, tally, extra=0):
        self.tally, self.extra, self.asked, self.clock = tally, extra, [], None
        self.ready = {"event": "ready", "load_ns": 9, "first_ns": 8, "threads": 1}

    def request(self, message, timeout_s=600.0):
        self.asked.append(message)
        if message["do"] == "count":
            for i in range(2 * message["iterations"] + self.extra):
                self.mark(i)
        if message["do"] == "profile":
            self.clock = self.tally.word(CLOCK)
            return {"operations": [{"name": "a", "op": "Conv", "ns": [5000, 6000]}]}
        return {"iterations": message.get("iterations")}

    def mark(self, i):
        marks = self.tally.word(MARKS)
        before = (marks + 1) * 100 + (marks // 2 if marks % 2 else 0)
        struct.pack_into("<Q", self.tally._memory, HEADER.size + marks % ROOM * 8, before)
        struct.pack_into("<Q", self.tally._memory, MARKS * 8, marks + 1)

    def close(self):
        self.asked.append("close")


@pytest.fixture
def tally():
    made = Tally()
    yield made
    made.close()


def test_times_are_asked_for_as_counts(tally):
    runner = Runner(tally)
    session = CountingSession(runner, tally)
    assert session.request({"do": "time", "iterations": 3}) == {"instructions": [100, 101, 102]}
    assert session.request({"do": "time_for", "seconds": 9}) == {"instructions": [103, 104, 105]}
    assert [m["do"] for m in runner.asked] == ["count", "count"]
    assert session.ready == {"event": "ready", "load_ns": 0, "first_ns": 0, "threads": 1, "affinity": []}


def test_counts_go_on_around_the_ring(tally):
    session = CountingSession(Runner(tally), tally)
    session.request({"do": "time", "iterations": ROOM // 2 - 1})
    assert session.request({"do": "time", "iterations": 3})["instructions"] == [
        100 + i for i in range(ROOM // 2 - 1, ROOM // 2 + 2)
    ]
    with pytest.raises(DeviceError, match=f"cannot count {ROOM} inferences"):
        session.request({"do": "time", "iterations": ROOM})


def test_marks_of_something_else_are_noticed(tally):
    with pytest.raises(DeviceError, match="made 7 marks for 3 inferences"):
        CountingSession(Runner(tally, extra=1), tally).request({"do": "time", "iterations": 3})


def test_operations_are_timed_by_the_guest_s_clock_and_told_as_counts(tally):
    runner = Runner(tally)
    answer = CountingSession(runner, tally).request({"do": "profile", "iterations": 2})
    assert answer == {"operations": [{"name": "a", "op": "Conv", "instructions": [5, 6]}]}
    assert runner.clock == 1 and tally.word(CLOCK) == 0


def test_a_clock_that_cannot_be_set_is_an_error(tally):
    with pytest.raises(DeviceError, match="cannot reach its clock"), tally.clock():
        struct.pack_into("<Q", tally._memory, REFUSED * 8, 1)


def test_the_emulator_s_memory_is_no_board_s(tally):
    with pytest.raises(DeviceError, match="says nothing of a board"):
        CountingSession(Runner(tally), tally).request({"do": "memory"})


def test_an_unknown_core_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(DeviceError, match="no emulated board 'cortex-a77'; accepted: emulated:cortex-a53, "):
        open_device("emulated:cortex-a77", tmp_path)


def test_another_machine_emulates_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(emulator.platform, "machine", lambda: "arm64")
    assert TRANSPORT.devices() == () and "local" in list_devices()
    with pytest.raises(
        DeviceError, match=r"emulated boards run on x86-64 Linux, this machine is .* on arm64"
    ):
        open_device("emulated:cortex-a76", tmp_path)


def test_processors_are_those_of_the_machine_with_the_core_s_features(tmp_path):
    (tmp_path / "possible").write_text("0-2\n")
    assert host_processors(tmp_path / "possible") == 3
    text = cpuinfo(CORES["cortex-a53"], 3)
    assert text.count("CPU part\t: 0xd03") == 3 and "processor\t: 2" in text and "asimddp" not in text
    assert "asimddp" in cpuinfo(CORES["cortex-a55"], 1)


@pytest.mark.parametrize("name", CORES)
def test_every_core_has_a_profile(name):
    profile = load_profile(f"emulated-{name}")
    assert (profile.arch, profile.cpu, profile.protocol.metric) == ("aarch64", name, "instructions")
    assert profile.expect == {"processor": f"{name} (emulated)"} and profile.threads == 1
