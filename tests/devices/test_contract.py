"""What every device keeps, whichever way it is reached: written once, run on each."""

from __future__ import annotations

import secrets
import time
import uuid
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from compiler.records import RunSpec
from devices.runner import start_runner
from tests.devices.reached import reach, ways

RUNNER = Path(__file__).with_name("fake_runner.py")
ODD_NAMES = [
    "with space",
    'it\'s "quoted"',
    "two\nlines\n",
    "$(touch x);{a}*?",
    "-rf",
    "a=b",
    "\u00fc",
    "\\t%s",
]


@pytest.fixture(params=ways())
def reached(request, tmp_path: Path):
    with reach(request.param, request, tmp_path) as found:
        yield found


@pytest.fixture
def device(reached):
    return reached.device


def start(reached, *arguments: str, env=None, affinity=()):
    spec = RunSpec({"runner": RUNNER}, (reached.python, "{runner}", *arguments), env or {})
    return start_runner(reached.device, spec, affinity)


def marked(device, word: str) -> list[str]:
    """The processes on the device whose command holds a word."""
    script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f 2>/dev/null | grep -F -e "$1"; done; true'
    lines = device.run(["sh", "-c", script, "sh", word]).stdout.splitlines()
    return [line for line in lines if script[:20] not in line and "grep" not in line]


def wait_until(condition) -> bool:
    """Poll for what must come about; the bound is far beyond what it takes."""
    return any(condition() or time.sleep(0.1) for _ in range(200))


def test_odd_names_survive_push_command_pull_and_workspace(device, tmp_path: Path) -> None:
    folder = tmp_path / "pushed folder"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        (folder / name).write_bytes(b"content %d" % number)
    there = device.push(folder)
    paths = [f"{there}/{name}" for name in ODD_NAMES]
    assert device.run(["cat", *paths]).stdout == "".join(f"content {n}" for n in range(len(ODD_NAMES)))
    for name in (ODD_NAMES[2], ODD_NAMES[3]):
        device.pull(device.push(folder / name), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (folder / name).read_bytes()
        with device.workspace() as workspace:
            laid = device.push(folder / name, workspace)
            assert device.run(["cat", laid]).stdout.encode() == (folder / name).read_bytes()


def test_a_second_push_pushes_nothing_and_new_content_goes_elsewhere(device, tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(b"one" * 100_000)
    first = device.push(source)
    number = device.run(["ls", "-i", first]).stdout
    assert device.push(source) == first
    assert device.run(["ls", "-i", first]).stdout == number
    source.write_bytes(b"two")
    assert device.push(source) != first
    assert len(device.run(["cat", first]).stdout) == 300_000


def test_a_program_stays_one_and_a_file_for_data_does_not_become_one(device, tmp_path: Path) -> None:
    program, data = tmp_path / "a=b", tmp_path / "data"
    program.write_text('#!/bin/sh\nprintf "%s|" "$V" "$@"\n')
    program.chmod(0o755)
    data.write_text("x")
    done = device.run([device.push(program), "c=d", "e f"], {"V": "x y"})
    assert (done.exit_code, done.stdout, done.stderr) == (0, "x y|c=d|e f|", "")
    assert device.run(["test", "-x", device.push(data)]).exit_code == 1 or device.name == "local"


def test_run_reports_code_output_and_errors_and_takes_no_shell(device) -> None:
    script = 'printf "%s" "$A$1"; echo "$B" >&2; exit 7'
    given = "x y'\"\n;$HOME `id` \\ \u00fc"
    done = device.run(["sh", "-c", script, "sh", "$A*\n'"], {"A": given, "B": "why"})
    assert (done.exit_code, done.stdout, done.stderr) == (7, given + "$A*\n'", "why\n")
    assert device.run(["cat"]).stdout == ""  # there is no input to wait for
    with pytest.raises(DeviceError, match="cannot start '/no/such program'"):
        device.run(["/no/such program"])
    assert device.run(["sh", "-c", "exit 127"]).exit_code == 127


def test_much_output_on_both_streams_does_not_stop_a_command(device) -> None:
    script = "i=0; while [ $i -lt 300 ]; do printf '%01000d' $i; printf '%01000d' $i >&2; i=$((i+1)); done"
    done = device.run(["sh", "-c", script])
    assert (len(done.stdout), len(done.stderr)) == (300_000, 300_000)


def test_a_command_that_takes_too_long_is_ended_with_its_children(device) -> None:
    long = f"sleep 9{uuid.uuid4().int % 10**12}"
    with pytest.raises(DeviceError, match=r"did not end within 0\.5 s"):
        device.run(["sh", "-c", f"trap '' HUP; (trap '' HUP; {long}) & {long}"], timeout_s=0.5)
    assert marked(device, long) == []


def test_a_missing_file_cannot_be_pulled(device, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot pull '/no/such/file'"):
        device.pull("/no/such/file", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_workspace_is_private_and_gone_afterwards(device, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with device.workspace() as workspace:
        device.push(tmp_path / "f", workspace)
        assert device.run(["ls", "-ld", workspace]).stdout.startswith("drwx------")
    assert device.run(["test", "-e", workspace]).exit_code == 1


def test_fingerprint_is_text_that_stays_and_a_state_is_read(device) -> None:
    first = device.fingerprint()
    assert first == device.fingerprint()
    assert {"machine", "processor", "cores", "system", "kernel"} <= set(first)
    assert all(isinstance(value, str) and value for value in first.values())
    state = device.state()
    assert state.time_ns > 0
    assert state.load_1min is not None and state.load_1min >= 0


def test_a_session_answers_reports_errors_and_closes(reached) -> None:
    name = f"runner-{secrets.token_hex(8)}"
    session = start(reached, "--name", name, env={"FAKE": "a b'\"\n{python}$X"})
    assert session.ready["variable"] == "a b'\"\n{python}$X"
    assert session.request({"do": "echo", "text": "\u00fc\n"})["echo"] == {"do": "echo", "text": "\u00fc\n"}
    with pytest.raises(DeviceError, match="unknown request 'dance'"):
        session.request({"do": "dance"})
    assert len(session.request({"do": "time", "iterations": 30_000})["wall_ns"]) == 30_000
    session.close()
    session.close()
    assert marked(reached.device, name) == []
    with pytest.raises(DeviceError, match="was closed"):
        session.request({"do": "echo"})


def test_a_long_request_arrives_whole(reached) -> None:
    session = start(reached)
    try:
        text = "x" * 500_000
        assert session.request({"do": "echo", "text": text})["echo"]["text"] == text
    finally:
        session.close()


def test_a_runner_is_bound_to_the_cpus_asked_for(reached) -> None:
    session = start(reached, affinity=[reached.cpu])
    assert session.ready["affinity"] == [reached.cpu]
    session.close()
    with pytest.raises(DeviceError, match=r"cannot run on CPUs \[60\].*allowed.* \[0"):
        start(reached, affinity=[60])


@pytest.mark.parametrize("reached", ways("local", "shell", "ssh", "adb_server"), indirect=True)
@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--misbehave", "not-ready"), r"(?s)ended with exit code 3.*no such kernel: foo"),
        (("--misbehave", "cannot-load"), "reports: RuntimeError: bad program"),
    ],
)
def test_a_runner_that_does_not_come_up_says_why(reached, arguments, pattern) -> None:
    with pytest.raises(DeviceError, match=pattern):
        start(reached, *arguments)


@pytest.mark.parametrize("reached", ways("local", "shell", "ssh", "adb_server"), indirect=True)
@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--die-at", "0"), r"(?s)SIGABRT.*about to fall\n.*the last straw"),
        (("--misbehave", "hang"), r"did not answer within 1\.5 s"),
        (("--misbehave", "chatter"), "not a JSON object: b'Loading model...'"),
    ],
)
def test_a_runner_that_fails_is_ended_with_its_last_words(reached, arguments, pattern) -> None:
    name = f"runner-{secrets.token_hex(8)}"  # other tests' runners may run beside it
    session = start(reached, "--name", name, *arguments)
    with pytest.raises(DeviceError, match=pattern):
        session.request({"do": "time", "iterations": 3}, timeout_s=1.5)
    assert marked(reached.device, name) == []


def test_two_sessions_and_commands_beside_them_do_not_mix(reached) -> None:
    sessions = [start(reached, "--base", str(base)) for base in (1000, 2_000_000)]
    try:
        for _ in range(3):
            slow, fast = (s.request({"do": "time", "iterations": 5})["wall_ns"] for s in reversed(sessions))
            assert max(fast) < 1100 and min(slow) >= 2_000_000
            assert reached.device.run(["echo", "beside"]).stdout == "beside\n"
    finally:
        for session in sessions:
            session.close()
