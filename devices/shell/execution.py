"""Run a script on a shell to its end, and leave no process of it when it does not come to one.

What goes there and what comes back is taken only as it was sent (`devices.shell.checked`).
"""

from __future__ import annotations

from contextlib import suppress

from compiler.device import Completed
from compiler.errors import DeviceError
from devices.channel import run_to_end
from devices.shell import scripts
from devices.shell.checked import checked_script, refuse_answer, take_answer
from devices.shell.port import Shell

AGAIN_S = 20.0
KILL_S = 20.0
KILL_TRIES = 2


def execute(shell: Shell, script: str, timeout_s: float) -> Completed:
    """Run a script without input; TimeoutError, and it is killed, when it takes too long."""
    mark = scripts.new_mark()
    try:
        return _execute(shell, scripts.marked_script(checked_script(script), mark), timeout_s)
    except BaseException:
        kill_marked(shell, mark)
        raise


def execute_repeatable(shell: Shell, script: str, timeout_s: float) -> Completed:
    """Run a script that changes nothing, and once more where it got stuck.

    Seen on the stand-in phone: now and then an emulated shell spins for ever.
    """
    try:
        return execute(shell, script, min(timeout_s, AGAIN_S))
    except TimeoutError:
        return execute(shell, script, timeout_s)


def kill_marked(shell: Shell, mark: str) -> None:
    """Kill what carries a mark; a device that is lost has hung up on it already."""
    for _ in range(KILL_TRIES):
        with suppress(DeviceError):
            try:
                _execute(shell, checked_script(scripts.kill_script(mark)), KILL_S)
            except TimeoutError:
                continue
        return


def _execute(shell: Shell, script: str, timeout_s: float) -> Completed:
    channel = shell.open(f"exec </dev/null\n{script}")
    try:
        _, printed = run_to_end(channel, timeout_s)
        stderr = _text(channel.last_words())
    finally:
        channel.close()
    answer = take_answer(printed)
    if answer is None:
        raise refuse_answer(shell.name, stderr)
    code, stdout = answer
    return Completed(code, _text(stdout), stderr)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
