"""The greeting with a phone's daemon: who we are, and whether it lets us in.

We say CNXN; a daemon that asks for keys answers AUTH with a token, and takes its signature by a
key that the user has accepted. Where it knows none of ours we hand over the public key, and the
phone shows the prompt that the user has to accept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from compiler.errors import DeviceError
from devices.transports.adb.daemon import DaemonConnection
from devices.transports.adb.keys import Key
from devices.transports.adb.packets import (
    MAX_PAYLOAD,
    VERSION,
    CorruptPacket,
    Packet,
    Pipe,
    read_packet,
    write_packet,
)

GREETING_S = 10.0
ACCEPT_S = 10.0
BANNER = b"host::features=shell_v2,cmd\0"
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3


class _Deadline:
    """Closes a pipe when a moment has come, which ends the read that waits on it."""

    def __init__(self, pipe: Pipe, seconds: float) -> None:
        self.passed = False
        self._pipe = pipe
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def _pass(self) -> None:
        self.passed = True
        self._pipe.close()

    def cancel(self) -> None:
        self._timer.cancel()
        self._timer.join()


def greet(
    pipe: Pipe,
    name: str,
    keys: Callable[[], Sequence[Key]],
    greeting_s: float = GREETING_S,
    accept_s: float = ACCEPT_S,
) -> DaemonConnection:
    """Return the connection once the daemon has let us in; DeviceError saying why it did not.

    `keys` is asked only when the daemon wants one.
    """
    deadline = _Deadline(pipe, greeting_s)
    try:
        write_packet(pipe, Packet(b"CNXN", VERSION, MAX_PAYLOAD, BANNER))
        answer = read_packet(pipe)
        if answer.command == b"AUTH":
            answer = _authorise(pipe, answer, tuple(keys()), name)
        if answer.command == b"AUTH":
            deadline.cancel()
            deadline = _Deadline(pipe, accept_s)
            answer = _wait_for_user(pipe, deadline, name)
    except (OSError, EOFError, CorruptPacket) as error:
        pipe.close()
        why = f"no greeting within {greeting_s:g} s" if deadline.passed else str(error)
        raise DeviceError(f"{name} does not greet as an adb daemon does: {why}") from error
    except BaseException:
        pipe.close()
        raise
    finally:
        deadline.cancel()
    return _let_in(pipe, answer, name)


def _authorise(pipe: Pipe, answer: Packet, keys: Sequence[Key], name: str) -> Packet:
    """Sign with each key in turn; the packet after the last, AUTH when none was taken."""
    for key in keys:
        if answer.command != b"AUTH" or answer.arg0 != TOKEN:
            break
        write_packet(pipe, Packet(b"AUTH", SIGNATURE, 0, key.sign(bytes(answer.payload))))
        answer = read_packet(pipe)
    if answer.command == b"AUTH":
        write_packet(pipe, Packet(b"AUTH", PUBLIC_KEY, 0, keys[0].public + b"\0"))
    return answer


def _wait_for_user(pipe: Pipe, deadline: _Deadline, name: str) -> Packet:
    started = time.monotonic()
    try:
        answer = read_packet(pipe)
        while answer.command == b"AUTH":  # a daemon may ask again while its prompt is open
            answer = read_packet(pipe)
    except (OSError, EOFError, CorruptPacket) as error:
        waited = time.monotonic() - started
        raise DeviceError(
            f"{name} does not know our key (waited {waited:.0f} s for an answer): "
            "accept the prompt on the phone, then run again"
        ) from error
    return answer


def _let_in(pipe: Pipe, answer: Packet, name: str) -> DaemonConnection:
    if answer.command == b"STLS":
        pipe.close()
        raise DeviceError(
            f"{name} wants TLS (wireless debugging), which only an adb server speaks: "
            f"`adb pair`, then `adb connect`, then use adb:server:SERIAL"
        )
    banner = bytes(answer.payload).decode(errors="replace").rstrip("\0")
    state, _, rest = banner.partition("::")
    if answer.command != b"CNXN" or state != "device":
        pipe.close()
        raise DeviceError(f"{name} is in the state {state!r}: start Android on it, then run again")
    properties = dict(part.partition("=")[::2] for part in rest.split(";"))
    features = frozenset(properties.get("features", "").split(","))
    return DaemonConnection(pipe, name, min(answer.arg1, MAX_PAYLOAD), features)
