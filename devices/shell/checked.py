"""Scripts that are run, and answers that are taken, only as they were sent.

An adb server checks nothing of what it carries, and the daemon's own sum of bytes misses two that changed
places. A damaged script may do anything and a damaged digit is still a digit, so the device compares
the script with its sum before it is run, and we compare what it printed. The sum is SHA-256, or POSIX's
`cksum` where the device has no `sha256sum`.

The answer is what the script printed, `=`, its exit code, a newline and the sum of all before it. A zero
byte in it is lost, as in any shell variable.
"""

from __future__ import annotations

import hashlib
import re
import zlib

from compiler.errors import DeviceError
from devices.shell.scripts import quoted

DAMAGED = "it arrived damaged"

CHECK = """sum() {{ if command -v sha256sum >/dev/null 2>&1; then sha256sum; else cksum; fi; }}
script={script}
case $(printf %s "$script" | sum) in '{digest} '*|'{cksum}'*) ;; *) echo {damaged} >&2; exit 121;; esac
"""
ANSWER = """out=$( (eval "$script"); echo "=$?")
printf '%s\\n' "$out"
printf %s "$out" | sum
"""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def checked_start(script: str) -> str:
    """Return a script that becomes the given one, if that arrived as it is here."""
    data = script.encode(errors="surrogateescape")
    digest = hashlib.sha256(data).hexdigest()
    check = CHECK.format(script=quoted(script), digest=digest, cksum=cksum(data), damaged=DAMAGED)
    return f'{check}eval "$script"\n'


def checked_script(script: str) -> str:
    """Return a script that does what the given one does and prints an answer for `take_answer`."""
    return checked_start(script).removesuffix('eval "$script"\n') + ANSWER


def take_answer(answer: bytes) -> tuple[int, bytes] | None:
    """Return exit code and stdout of a checked script, None where they are not what it said."""
    found = re.fullmatch(rb"((.*)=(\d{1,3}))\n(?:([0-9a-f]{64})  -|(\d+ \d+))\n", answer, re.DOTALL)
    if found is None:
        return None
    whole, stdout, code, digest, simple = found.groups()
    right = hashlib.sha256(whole).hexdigest() if digest else cksum(whole)
    return (int(code), stdout) if right.encode() == (digest or simple) else None


def refuse_answer(name: str, stderr: str) -> DeviceError:
    """Return the error for an answer that was not taken."""
    why = stderr.strip().splitlines()[-1:]
    if why == [DAMAGED]:
        return DeviceError(f"{name} got a command that was damaged on the way, and did not run it; {ADVICE}")
    said = f" (it said: {why[0]})" if why else ""
    return DeviceError(f"an answer of {name} was damaged on the way, and was not used{said}; {ADVICE}")


ADVICE = "look at the cable or the network, then run again"


def cksum(data: bytes) -> str:
    """Return what POSIX's cksum says of data: its CRC, whose bits run the other way than zlib's, and size."""
    size, length = len(data), b""
    while size:
        length, size = length + bytes([size & 0xFF]), size >> 8
    reflected = zlib.crc32((data + length).translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return f"{int(f'{reflected:032b}'[::-1], 2) ^ 0xFFFFFFFF} {len(data)}"
