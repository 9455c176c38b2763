"""serve.py around a runtime that does nothing: what it counts and what it remembers."""

import json

import pytest

from compiler.errors import DeviceError
from devices.transports.local import LocalDevice
from targets.serving import SERVE

pytestmark = pytest.mark.core

RUNNER = """
import gc, os
RAN = []
os_getppid = os.getppid
def marked():
    RAN.append("mark")
    return os_getppid()
os.getppid = marked

class Method:
    threads = 1
    def __init__(self, program, document, name, threads): self.kept = bytearray(int(document["megabytes"]) << 20)
    def bind(self, arrays): pass
    def run(self): RAN.append("run" if gc.isenabled() else "alone")
    def outputs(self): return []
    def profile(self, iterations):
        found = list(RAN)
        RAN.clear()
        return found
"""


@pytest.fixture
def served(tmp_path):
    def started(megabytes=0):
        (tmp_path / "runner.py").write_text(RUNNER)
        io = {"methods": {"forward": {"inputs": [], "outputs": []}}, "megabytes": megabytes}
        (tmp_path / "io.json").write_text(json.dumps(io))
        device = LocalDevice(tmp_path / "cache")
        command = (device.interpreter(""), SERVE, tmp_path / "runner.py", "none", tmp_path / "io.json")
        opened.append(device.start([str(word) for word in command], {}, ()))
        return opened[-1]

    opened = []
    yield started
    for session in opened:
        session.close()


def test_each_counted_inference_lies_between_two_marks_without_a_collection(served):
    session = served()
    session.request({"do": "profile", "iterations": 1})
    assert session.request({"do": "count", "iterations": 2}) == {"iterations": 2}
    found = session.request({"do": "profile", "iterations": 1})["operations"]
    assert found == ["mark", "alone", "mark"] * 2
    session.request({"do": "time", "iterations": 1})
    assert session.request({"do": "profile", "iterations": 1})["operations"] == ["run"]


def test_memory_is_the_peak_of_the_process(served):
    small, large = (served(mb).request({"do": "memory"})["peak_rss_bytes"] for mb in (0, 64))
    assert 60 << 20 < large - small < 80 << 20


def test_an_unknown_request_names_those_there_are(served):
    with pytest.raises(
        DeviceError,
        match="unknown request 'fly'; expected time, time_for, profile, count, memory, infer, exit",
    ):
        served().request({"do": "fly"})
