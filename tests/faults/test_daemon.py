"""The daemon speaks ADB, says Debian's adb, which knows nothing of it; and its faults are faults."""

import os
import pty
import random
import select
import subprocess
import time

import pytest

from tests.faults.injection import KINDS, Draws, Faults, damage

pytestmark = pytest.mark.target


@pytest.fixture
def phone(adb, faulty):
    """Debian's adb, bound to a new faultless phone."""
    serial = f"127.0.0.1:{faulty.live()}"
    assert b"connected to" in adb("connect", serial).stdout
    yield lambda *arguments, **options: adb("-s", serial, *arguments, **options)
    adb("disconnect", serial)


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_a_command_has_both_outputs_and_its_exit_code(phone, code):
    done = phone("shell", f"printf out; printf err >&2; exit {code}")
    assert (done.stdout, done.stderr, done.returncode) == (b"out", b"err", code)


def test_a_killed_command_has_a_code_of_its_own(phone):
    assert phone("shell", "kill -9 $$").returncode == 137


def test_a_command_reads_what_is_typed(phone):
    assert phone("shell", "tr a-z A-Z", input=b"hello\n").stdout == b"HELLO\n"


def test_the_legacy_shell_mixes_the_outputs(phone):
    assert phone("shell", "-x", "echo out; echo err >&2; exit 3").stdout == b"out\nerr\n"


def test_a_shell_at_a_terminal(phone, adb):
    serial = phone("get-serialno").stdout.decode().strip()
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [adb.program, "-s", serial, "shell"], env=adb.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        read_until(ours, b"# ")
        os.write(ours, b"tty && echo $((6 * 7)); exit 5\n")
        assert b"/dev/pts/" in read_until(ours, b"42")
        assert shell.wait(10) == 5
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(terminal: int, text: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + 20
    while text not in shown:
        assert time.monotonic() < deadline, f"{text!r} did not come, but {shown!r}"
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
    return shown


@pytest.mark.parametrize("size", [0, 1, 65536, 5 << 20])
def test_files_come_back_as_they_went(phone, tmp_path, size):
    here, back = tmp_path / "here", tmp_path / "back"
    here.write_bytes(random.Random(size).randbytes(size))
    assert phone("push", here, "/data/local/tmp/odd name;x").returncode == 0
    assert phone("pull", "/data/local/tmp/odd name;x", back).returncode == 0
    assert back.read_bytes() == here.read_bytes()


def test_folders_are_listed_and_come_back(phone, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("x")
    assert phone("push", tmp_path / "folder", "/data/local/tmp/").returncode == 0
    assert b"inner" in phone("ls", "/data/local/tmp/folder").stdout
    assert phone("pull", "/data/local/tmp/folder", tmp_path / "back").returncode == 0
    assert (tmp_path / "back" / "inner" / "file").read_text() == "x"


def test_what_cannot_be_is_refused(phone, tmp_path):
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert b"does not exist" in phone("pull", "/data/local/tmp/none", tmp_path).stdout
    assert b"Read-only file system" in phone("push", tmp_path / "file", "/usr/bin/x").stdout


def test_a_new_life_is_empty_and_has_no_processes(phone, faulty):
    phone("shell", "touch there; setsid sleep 1000 >/dev/null 2>&1 &")
    assert os.listdir(faulty.data) == ["there"]
    port = faulty.live()
    assert os.listdir(faulty.data) == [] and b"connected" in phone("connect", f"127.0.0.1:{port}").stdout
    assert b"sleep" not in phone("-s", f"127.0.0.1:{port}", "shell", "ps -A -o comm").stdout


def test_only_a_trusted_key_is_let_in(adb, faulty):
    key = (adb.home / ".android" / "adbkey.pub").read_text()
    other = key[:40] + ("A" if key[40] != "A" else "B") + key[41:]
    for keys, state in ([key], b"device"), ([other], b"unauthorized"), ([other, key], b"device"):
        serial = f"127.0.0.1:{faulty.live(keys=keys)}"
        adb("connect", serial)
        assert settled(adb, serial) == state, keys
        adb("disconnect", serial)


def settled(adb, serial: str) -> bytes:
    deadline = time.monotonic() + 20
    while True:
        states = dict(line.split(b"\t") for line in adb("devices").stdout.splitlines() if b"\t" in line)
        state = states[serial.encode()]
        if state != b"authorizing" or time.monotonic() > deadline:
            return state
        time.sleep(0.05)


@pytest.mark.core
def test_the_same_seed_draws_the_same_faults():
    def drawn(seed: int, name: str) -> list:
        draws = Draws(Faults(dict.fromkeys(KINDS, 0.1), seed), name)
        return [draws.next() for _ in range(300)]

    assert drawn(1, "1/in") == drawn(1, "1/in")
    assert len({tuple(drawn(seed, name)) for seed in (1, 2) for name in ("1/in", "1/out")}) == 4
    assert {fault.kind for fault in drawn(1, "1/in")} == {"", *KINDS}


@pytest.mark.core
def test_damage_is_small_and_a_swap_keeps_the_checksum():
    payload = bytes(range(100))
    draws = Draws(Faults({"flip": 0.5, "swap": 0.5}), "x")
    for fault in (draws.next() for _ in range(100)):
        changed = damage(payload, fault)
        different = sum(a != b for a, b in zip(payload, changed, strict=True))
        assert different == 1 if fault.kind == "flip" else different in (0, 2)
        assert (sum(changed) == sum(payload)) == (fault.kind == "swap")


@pytest.mark.parametrize("kind", ["drop", "close", "header"])
def test_a_fault_strikes_adb_too(adb, faulty, kind):
    serial = f"127.0.0.1:{faulty.live(chances={kind: 1.0}, after=1)}"
    adb("connect", serial)
    with pytest.raises((subprocess.TimeoutExpired, AssertionError)):
        assert adb("-s", serial, "shell", "echo hello", timeout=2).stdout == b"hello\n"
    assert faulty.struck().get(kind, 0) >= 1
    adb("disconnect", serial)
