"""Scripts for any POSIX shell: mksh, dash, bash or busybox, toybox's tools or coreutils.

Whatever comes from outside is quoted. What edgewright starts carries a mark in its environment, which
its children inherit, so that all of it can be found and killed later, whatever the transport
did to its parent.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence

from compiler.errors import UsageError

MARK = "EDGEWRIGHT_RUN"
NOT_STARTED = "edgewright-cannot-start"


def quoted(text: str) -> str:
    """Quote a text for the shell; UsageError for a zero byte, which no argument can hold."""
    if "\0" in text:
        raise UsageError(f"{text!r} holds a zero byte, which no argument or path of a device can")
    return shlex.quote(text)


def new_mark() -> str:
    """Return a mark that no other process carries."""
    return secrets.token_hex(12)


def marked(script: str, mark: str) -> str:
    """Return a script that carries a mark, and hands it to all it starts."""
    return f"export {MARK}={mark}\n{script}"


def run_script(command: Sequence[str], env: Mapping[str, str], cpus: Sequence[int] = ()) -> str:
    """Return the script that becomes `command`, on some CPUs only when any are given.

    A program that is not there is told apart from one that itself ends with code 127.
    """
    words = " ".join(map(quoted, command))
    return "\n".join(
        [
            *(f"export {_name(key)}={quoted(value)}" for key, value in env.items()),
            f"command -v {quoted(command[0])} >/dev/null 2>&1 || {{ echo {NOT_STARTED} >&2; exit 127; }}",
            f"exec taskset {mask(cpus)} {words}" if cpus else f"exec {words}",
        ]
    )


def marked_script(script: str, mark: str) -> str:
    """Return a script that runs another in a shell of its own, which carries a mark itself."""
    return f"export {MARK}={mark}\nexec sh -c {quoted(script)}"


def kill_script(mark: str) -> str:
    """Return the script that kills every process with a mark, and those they start meanwhile.

    A shell that has just begun has the mark in its command only. It says how many are left.
    """
    other = f"{MARK}=[{mark[0]}]{mark[1:]}"  # matches the mark, and is not the mark: we do not find ourselves
    return f"""
marked() {{ grep -l -e {quoted(other)} /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; }}
turn=0
while [ $turn -lt 20 ]; do
  found=$(marked)
  [ -n "$found" ] || break
  for file in $found; do file=${{file#/proc/}}; kill -9 "${{file%/*}}" 2>/dev/null; done
  turn=$((turn + 1))
  [ $turn -lt 3 ] || sleep 0.1 2>/dev/null || sleep 1
done
marked | wc -l
"""


def allowed_cpus_script(cpus: Sequence[int]) -> str:
    """Return the script that says which CPUs a process started on `cpus` may use."""
    bound = f"taskset {mask(cpus)} " if cpus else ""
    return f"{bound}grep Cpus_allowed_list: /proc/self/status"


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the CPUs of a kernel's list such as `0-3,6`."""
    spans = [span.partition("-") for span in re.findall(r"\d+(?:-\d+)?", text)]
    return tuple(cpu for low, _, high in spans for cpu in range(int(low), int(high or low) + 1))


def mask(cpus: Sequence[int]) -> str:
    """Return the hexadecimal mask that every taskset takes."""
    return f"{sum(1 << cpu for cpu in set(cpus)):x}"


def _name(key: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise UsageError(f"{key!r} is not the name of an environment variable that a shell can set")
    return key
