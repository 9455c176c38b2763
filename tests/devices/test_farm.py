"""A farm: each job once, whatever dies, hangs or goes silent; and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.errors import DeviceError, UsageError
from devices.database import MeasurementDatabase
from devices.farm import Job, Limits, ProcessFarm
from devices.farm.processes import descendants
from devices.lease import lease
from tests.devices.farm_devices import candidate, open_desk
from tests.devices.leasing_process import Named

pytestmark = pytest.mark.thorough  # many processes: minutes, left out of `make check`

PROTOCOL = BenchmarkProtocol(
    settle_s=0, warmup_s=0, warmup_max_s=0, round_s=0.001, min_rounds=6, max_rounds=6, target_width=1e-9
)
PROFILE = DeviceProfile("test", "", "local", ("fake",), threads=1, protocol=PROTOCOL)


def ours() -> list[str]:
    """Return the commands of all workers and runners that we have started and that run."""
    texts = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it ended meanwhile
            texts.append(Path(f"/proc/{pid}/cmdline").read_text())
    return [text for text in texts if "devices.farm.worker" in text or "fake_runner" in text]


@pytest.fixture(scope="module", autouse=True)
def private(tmp_path_factory):
    """Keep leases where no other run of these tests has any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("private")))
        yield


@pytest.fixture(scope="module")
def calm(private, tmp_path_factory):
    """A farm of devices with which nothing is wrong, and its database."""
    folder = tmp_path_factory.mktemp("calm")
    devices = ("desk:7", "desk:8", "shelf:9")  # other ones than below: it keeps their leases
    with ProcessFarm(devices, folder / "m.sqlite", opener=open_desk, cache=folder / "cache") as opened:
        yield opened, folder


@pytest.fixture
def farm(tmp_path: Path):
    """Open farms; all are closed, and nothing of them may be left."""
    farms = []
    before = len(ours())

    def opened(*devices: str, database: object = None, **options: object) -> ProcessFarm:
        where = str(database or tmp_path / "m.sqlite")
        farms.append(ProcessFarm(devices, where, opener=open_desk, cache=tmp_path / "cache", **options))
        return farms[-1]

    yield opened
    for one in farms:
        one.close()
    assert len(ours()) == before


def job(tmp_path: Path, name: str, *arguments: str, **fields: object) -> Job:
    return Job(candidate(name, tmp_path / "log", *arguments), PROFILE, **fields)


def requests(tmp_path: Path, name: str) -> int:
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    return sum(line["name"] == name for line in lines)


def reasons(farm: ProcessFarm) -> dict[str, str]:
    return {one.device: one.reason for one in farm.devices()}


def test_equal_devices_share_the_jobs_and_each_is_done_once(calm) -> None:
    opened, folder = calm
    lines: list[str] = []
    (desk, desks), (shelf, shelves) = sorted(opened.kinds().items(), key=lambda pair: -len(pair[1]))
    assert (desks, shelves) == (("desk:7", "desk:8"), ("shelf:9",))
    jobs = [job(folder, f"a{i}", "--delay", "0.05", kind=desk) for i in range(6)] + [
        job(folder, "b", kind=shelf)
    ]
    futures = [opened.submit(one) for one in jobs]
    assert opened.submit(jobs[5]) is futures[5]
    opened.drain(lines.append)
    found = [future.result() for future in futures]
    assert [m.artifact_digest for m in found] == [one.candidate.artifact_digest for one in jobs]
    assert [len(m.rounds) for m in found] == [6] * 7
    assert {m.device for m in found[:6]} == set(desks) and found[-1].device == "shelf:9"
    assert sum(one.done for one in opened.devices()) == 7 and set(reasons(opened).values()) == {""}
    with MeasurementDatabase(folder / "m.sqlite") as database:
        assert len(database.measurements()) == len(database._rows()) == 7
    assert any(line.startswith("shelf:9: b: finished, 6 rounds") for line in lines)


def test_results_go_to_a_server(farm, postgres, tmp_path: Path) -> None:
    url = postgres.database()
    opened = farm("desk:1", "desk:2", database=url)
    futures = [opened.submit(job(tmp_path, f"a{i}")) for i in range(4)]
    opened.drain()
    with MeasurementDatabase(url) as database:
        key = lambda m: m.artifact_digest  # noqa: E731
        assert sorted(database.measurements(), key=key) == sorted((f.result() for f in futures), key=key)


def test_a_worker_that_dies_is_replaced_and_the_job_goes_on_from_its_rounds(farm, tmp_path: Path) -> None:
    opened = farm("desk:1:dies-once")
    future = opened.submit(job(tmp_path, "a"))
    opened.drain()
    assert [r.index for r in future.result().rounds] == list(range(6))
    # Two requests to warm up and two rounds, then death; two to warm up and the four rounds that missed.
    assert requests(tmp_path, "a") == 4 + 6
    (report,) = opened.devices()
    assert (report.done, report.faults, report.reason) == (1, 1, "")


def test_a_device_that_goes_on_failing_is_quarantined_and_its_equal_does_the_work(
    farm, tmp_path: Path
) -> None:
    opened = farm("desk:1:dies", "desk:2", limits=Limits(faults=2))
    futures = [opened.submit(job(tmp_path, f"a{i}", "--delay", "0.05")) for i in range(8)]
    opened.drain()
    assert {f.result().device for f in futures} == {"desk:2"}
    assert "quarantined after 2 faults in a row, the last: its worker" in reasons(opened)["desk:1:dies"]
    assert "was killed by signal 9" in reasons(opened)["desk:1:dies"]
    assert reasons(opened)["desk:2"] == ""


def test_without_an_equal_device_the_jobs_fail_with_every_try(farm, tmp_path: Path) -> None:
    opened = farm("desk:1:dies", "shelf:3", limits=Limits(faults=2, tries=9))
    desk = next(kind for kind, its in opened.kinds().items() if its == ("desk:1:dies",))
    futures = [opened.submit(job(tmp_path, name, kind=desk)) for name in ("a", "b")]
    fine = opened.submit(job(tmp_path, "c", kind=next(k for k in opened.kinds() if k != desk)))
    opened.drain()
    assert fine.result().stable
    errors = [str(future.exception()) for future in futures]
    assert all(
        isinstance(f.exception(), DeviceError) and "no device of its kind is left for" in e
        for f, e in zip(futures, errors, strict=True)
    )
    assert (
        "'a' (desk:1:dies: quarantined after 2 faults" in errors[0]
        and "It failed on desk:1:dies: its worker" in errors[0]
    )
    late = opened.submit(job(tmp_path, "d", kind=desk))
    opened.drain()
    assert "no device of its kind is left for 'd'" in str(late.exception())


def test_a_worker_that_hangs_is_ended_with_its_runner(farm, tmp_path: Path) -> None:
    opened = farm("desk:1:hangs", "desk:2:hangs", limits=Limits(job_s=2.0, tries=2))
    future = opened.submit(job(tmp_path, "a"))
    opened.drain()
    text = str(future.exception())
    assert "'a' failed on desk:" in text and text.count("did not finish within 2 s and was ended") == 2
    assert [one.faults for one in opened.devices()] == [1, 1]
    assert not [command for command in ours() if "fake_runner" in command]


def test_a_worker_that_falls_silent_is_ended_and_its_device_is_out_at_once(farm, tmp_path: Path) -> None:
    opened = farm("desk:1:freezes", "desk:2", limits=Limits(silence_s=3.0))
    futures = [opened.submit(job(tmp_path, f"a{i}", "--delay", "0.05")) for i in range(4)]
    opened.drain()
    assert {f.result().device for f in futures} == {"desk:2"}
    assert "after 1 faults in a row, the last: its worker" in reasons(opened)["desk:1:freezes"]
    assert "gave no sign of life for 3 s and was ended" in reasons(opened)["desk:1:freezes"]
    # A slow job gives signs of life between its rounds.
    slow = opened.submit(job(tmp_path, "slow", "--delay", "0.5"))
    opened.drain()
    assert slow.result().device == "desk:2" and opened.devices()[1].faults == 0


def test_a_device_is_blamed_only_when_it_no_longer_answers(farm, tmp_path: Path) -> None:
    opened = farm("desk:1", "desk:2:lost", limits=Limits(tries=2, faults=1))
    broken = opened.submit(job(tmp_path, "broken", "--die-at", "0"))
    good = [opened.submit(job(tmp_path, f"a{i}", "--delay", "0.05")) for i in range(4)]
    opened.drain()
    assert "SIGABRT" in str(broken.exception()) or "is gone" in str(broken.exception())
    assert {f.result().device for f in good} == {"desk:1"}
    assert reasons(opened)["desk:1"] == "" and "desk:2:lost is gone" in reasons(opened)["desk:2:lost"]


def test_what_no_other_try_can_mend_is_not_tried_again(calm) -> None:
    opened, folder = calm
    other = replace(PROFILE, expect={"machine": "another"})
    future = opened.submit(replace(job(folder, "refused"), profile=other))
    opened.drain()
    with pytest.raises(DeviceError, match=r"expects machine = 'another', the device says '(desk|shelf)'"):
        future.result()
    assert requests(folder, "refused") == 0 and {one.faults for one in opened.devices()} == {0}


def test_a_reading_is_taken_again_only_on_request(calm) -> None:
    opened, folder = calm
    desk = next(kind for kind, its in opened.kinds().items() if len(its) == 2)
    found = []
    for reuse in (False, True, False):
        future = opened.submit(job(folder, "again", kind=desk, reuse=reuse))
        opened.drain()
        found.append(future.result())
    assert found[0] == found[1] != found[2]
    assert requests(folder, "again") == 2 * (2 + 6)


def test_a_device_is_used_once_if_it_is_there_and_nobody_has_it(farm, tmp_path: Path) -> None:
    with lease(Named("2")):
        opened = farm("desk:1:late-1", "desk:4:late-4", "desk:1", "nowhere:9", "desk:2", wait_s=0.0)
        future = opened.submit(job(tmp_path, "a"))
        opened.drain()
    assert future.result().device in ("desk:1:late-1", "desk:4:late-4")
    assert "is in use by pid" in reasons(opened)["desk:2"]
    del (told := reasons(opened))["desk:2"]
    assert told == {
        "desk:1:late-1": "",  # though its second way was there first
        "desk:4:late-4": "",
        "desk:1": "it is the device 'desk:1:late-1', by another way",
        "nowhere:9": "nowhere:9 does not answer",
    }


def test_a_farm_that_can_do_nothing_says_so(farm) -> None:
    with pytest.raises(DeviceError, match="no device of the farm can be used: nowhere:1: nowhere:1 does not"):
        farm("nowhere:1")
    with pytest.raises(DeviceError, match="no device of the farm can be used: none was given"):
        farm()
    with pytest.raises(UsageError, match="cannot share a database in memory"):
        farm("desk:3", database="sqlite://")


def test_to_close_ends_what_runs_and_keeps_the_rounds(farm, tmp_path: Path) -> None:
    opened = farm("desk:1")
    going, waiting = (opened.submit(job(tmp_path, name, "--delay", "0.2")) for name in "ab")
    started = threading.Event()

    def tell(line: str) -> None:
        if "round, 2 rounds" in line:
            started.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.drain(tell)
    opened.close()
    assert started.is_set() and "the farm was closed" in str(going.exception()) and waiting.cancelled()
    again = farm("desk:1")
    future = again.submit(job(tmp_path, "a"))
    again.drain()
    assert [r.index for r in future.result().rounds] == list(range(6))
    with MeasurementDatabase(tmp_path / "m.sqlite") as database:
        assert len(database._rows()) == 1


def test_workers_end_with_a_farm_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tests.devices.test_farm import *
with ProcessFarm(["desk:1"], {str(tmp_path / "m.sqlite")!r}, opener=open_desk, cache=Path({str(tmp_path)!r})) as farm:
    farm.submit(job(Path({str(tmp_path)!r}), "a", "--delay", "0.5"))
    farm.drain(lambda line: print(line, flush=True))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert "ready" in process.stdout.readline() or "round" in process.stdout.readline()
        below = descendants(process.pid)
        assert len(below) >= 2  # the worker and its runner
        process.kill()
    deadline = time.monotonic() + 60
    while any(
        Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in below
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
