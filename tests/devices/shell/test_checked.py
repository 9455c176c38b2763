"""A script runs, and its answer is taken, only as it was sent, whatever a link does to either."""

import shutil
import subprocess

import pytest

from devices.shell.checked import DAMAGED, checked_script, checked_start, cksum, refuse_answer, take_answer

SCRIPT = """printf 'a line\\n"quoted"\\\\ $HOME\\n\\n'; echo oops >&2; exit 7"""
PRINTED = b'a line\n"quoted"\\ $HOME\n\n'


def sh(script, folder="/", path="/usr/bin:/bin"):
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, cwd=folder, env={"PATH": str(path)})


@pytest.fixture(params=["sha256sum", "cksum"])
def path(request, tmp_path):
    """The tools of a device that has only one of the two sums."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / request.param).symlink_to(shutil.which(request.param))
    return tmp_path / "bin"


def test_the_answer_is_what_was_printed_and_the_exit_code(path):
    done = sh(checked_script(SCRIPT), path=path)
    assert take_answer(done.stdout) == (7, PRINTED) and done.stderr == b"oops\n"


@pytest.mark.parametrize(
    "script", ["true", "printf x", "printf '\\377é\\n'", "echo =3", "kill -9 $$; sleep 1"]
)
def test_odd_answers(script, path):
    code, printed = take_answer(sh(checked_script(script), path=f"{path}:/usr/bin:/bin").stdout) or (
        None,
        None,
    )
    if script.startswith("kill"):
        assert code is None
    else:
        assert (code, printed) == (0, sh(script).stdout)


def test_a_killed_command_has_its_code():
    assert take_answer(sh(checked_script("sh -c 'kill -9 $$'")).stdout) == (137, b"")


def test_a_checked_start_becomes_the_command(path):
    script = checked_start("export A='1 2'\nexec /bin/sh -c 'read line; echo \"$A $line $$\"'")
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": str(path)}
    ) as process:
        assert process.communicate(b"typed\n")[0] == f"1 2 typed {process.pid}\n".encode()


@pytest.mark.parametrize("make", [checked_script, checked_start])
def test_a_damaged_script_is_not_run(make, tmp_path):
    script = make("touch here; echo done").replace("touch here", "touch hero")
    done = sh(script, tmp_path)
    assert (done.returncode, done.stderr.decode().strip()) == (121, DAMAGED) and not list(tmp_path.iterdir())
    assert take_answer(done.stdout) is None
    assert "did not run it" in str(refuse_answer("adb:x", done.stderr.decode()))


def test_no_damage_of_an_answer_is_taken(path):
    answer = sh(checked_script(SCRIPT), path=path).stdout
    for place in range(len(answer)):
        turned = bytearray(answer)
        turned[place] ^= 1 << place % 8
        assert take_answer(bytes(turned)) is None, bytes(turned)
        assert take_answer(answer[:place]) is None
        assert take_answer(answer[:place] + answer[place + 1 :]) is None
    assert take_answer(answer + answer) is None and take_answer(b"") is None
    assert "No space left" in str(refuse_answer("adb:x", "x\nsh: No space left\n"))


@pytest.mark.parametrize("data", [b"", b"1", b"123456789", bytes(range(256)) * 300])
def test_cksum_is_posix_s(data):
    assert (
        cksum(data)
        == subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode().strip()
    )
