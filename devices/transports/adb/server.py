"""The way through a running adb server: its host protocol on a local TCP port.

A request is four hexadecimal digits of length and a text; the answer is `OKAY`, or `FAIL` and a
message in the same form. After `host:transport:SERIAL` the connection is the phone's own, and the
next request opens a service there. One connection each service; the server is never started.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.errors import DeviceError

PORT = 5037
CONNECT_S = 5.0
REQUEST_S = 20.0
RECEIVE_BYTES = 1 << 20

ADVICE = {
    "unauthorized": "accept the prompt on the phone, then run again",
    "authorizing": "accept the prompt on the phone, then run again",
    "offline": "unplug it and plug it in again, or `adb reconnect offline`",
    "no permissions": "give your user access to the USB device (udev rules: https://d.android.com/r/studio-ui/udev)",
    "recovery": "start Android on it",
    "bootloader": "start Android on it",
    "sideload": "start Android on it",
}


class NoServer(DeviceError):
    """No adb server answers."""


@dataclass(frozen=True)
class Listed:
    """A phone as the server lists it; `state` is `device` when it can be used."""

    serial: str
    state: str


class ServerStream:
    """One connection to the server that has become a service of the phone."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        """Take over a connection."""
        self._socket = connection
        self._name = name

    def send(self, data: bytes | memoryview, timeout_s: float) -> None:
        """Write all of `data`."""
        self._socket.settimeout(max(timeout_s, 1e-3))
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            # The server closes the connection both when the service ended and when the phone went.
            raise BrokenPipeError(str(error)) from error

    def receive(self, timeout_s: float) -> bytes:
        """Return what came."""
        self._socket.settimeout(max(timeout_s, 1e-3))
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise DeviceError(f"{self._name} was lost: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connection, and with it the service."""
        self._socket.close()


class ServerBridge:
    """One phone that the adb server knows."""

    def __init__(self, serial: str, port: int = PORT) -> None:
        """Reach the phone `serial` through the server on `port`."""
        self.name = f"adb:{serial}"
        self._serial = serial
        self._port = port

    def open(self, service: str, timeout_s: float = REQUEST_S) -> ServerStream:
        """Open a service on the phone."""
        connection = _connect(self._port)
        try:
            _request(connection, f"host:transport:{self._serial}", timeout_s, self.name)
            _request(connection, service, timeout_s, self.name)
        except BaseException:
            connection.close()
            raise
        return ServerStream(connection, self.name)

    def features(self) -> frozenset[str]:
        """Return what the phone's daemon can do."""
        answer = query(f"host-serial:{self._serial}:features", self._port)
        return frozenset(answer.split(","))

    def close(self) -> None:
        """Hold nothing."""


def list_phones(port: int = PORT) -> tuple[Listed, ...]:
    """Return the phones the server lists; NoServer where none runs."""
    lines = query("host:devices", port).splitlines()
    return tuple(Listed(*line.split("\t", 1)) for line in lines if "\t" in line)


def connect(address: str, port: int = PORT) -> str:
    """Ask the server to connect to a phone at `HOST:PORT`, and return what it says."""
    return query(f"host:connect:{address}", port).strip()


def reconnect(address: str, port: int = PORT) -> str:
    """As `connect`, for a phone that was there before: the server keeps a lost one as offline."""
    try:
        query(f"host:disconnect:{address}", port)
    except NoServer:
        raise
    except DeviceError:
        pass  # it was forgotten meanwhile
    return connect(address, port)


def problem(state: str) -> str:
    """Return what keeps a phone in this state from being used and what to do, "" for nothing."""
    if state == "device":
        return ""
    advice = next((ADVICE[key] for key in ADVICE if state.startswith(key)), "see `adb devices`")
    return f"{state}: {advice}"


def query(request: str, port: int) -> str:
    """Return the server's answer to a request that has one."""
    who = "the adb server"
    with _connect(port) as connection:
        _request(connection, request, REQUEST_S, who)
        with _answering(request, who, REQUEST_S):
            return _text(connection)


def _connect(port: int) -> socket.socket:
    try:
        connection = socket.create_connection(("127.0.0.1", port), CONNECT_S)
    except OSError as error:
        raise NoServer(f"no adb server answers on port {port}; start one with `adb start-server`") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _request(connection: socket.socket, request: str, timeout_s: float, who: str) -> None:
    """Send one request and take its OKAY; DeviceError with what the server says otherwise."""
    data = request.encode(errors="surrogateescape")
    connection.settimeout(timeout_s)
    with _answering(request, who, timeout_s):
        connection.sendall(b"%04x" % len(data) + data)
        status = _exact(connection, 4)
        message = "" if status == b"OKAY" else _text(connection)
    if status != b"OKAY":
        raise DeviceError(f"{who} refuses {_short(request)}: {_advise(message)}")


@contextmanager
def _answering(request: str, who: str, timeout_s: float) -> Iterator[None]:
    """Turn what can go wrong with an answer into DeviceError."""
    try:
        yield
    except TimeoutError as error:
        raise DeviceError(
            f"{who} did not answer {_short(request)} within {timeout_s:g} s; is the phone still there?"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise DeviceError(f"{who} was lost at {_short(request)}: {error}") from error


def _advise(message: str) -> str:
    key = next((k for k in ADVICE if k in message), None)
    return f"{message.splitlines()[0]}: {ADVICE[key]}" if key and message else message


def _text(connection: socket.socket) -> str:
    return _exact(connection, int(_exact(connection, 4), 16)).decode(errors="replace")


def _exact(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise EOFError("the adb server closed the connection")
        data += chunk
    return data


def _short(request: str) -> str:
    # Of a script its kind alone: it begins with our own check, which says nothing.
    kind, _, script = request.partition(":") if request.startswith("shell,") else (request, "", "")
    return "a command" if script else repr(kind if len(kind) <= 60 else kind[:57] + "...")
