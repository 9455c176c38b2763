"""A phone reached straight at its daemon, over TCP or USB, without an adb server.

The connection is made when it is first needed, and made again when it was lost: a phone that was
unplugged between two commands can go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from compiler.errors import DeviceError
from devices.transports.adb.daemon import OPEN_S, DaemonConnection, DaemonStream
from devices.transports.adb.packets import Pipe, TcpPipe

CONNECT_S = 10.0


@dataclass
class DirectBridge:
    """One phone; `connect` makes a connection to its daemon."""

    name: str
    connect: Callable[[], DaemonConnection]
    _connection: DaemonConnection | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, service: str, timeout_s: float = OPEN_S) -> DaemonStream:
        """Open a service on the phone."""
        return self._connected().open(service, timeout_s)

    def features(self) -> frozenset[str]:
        """Return what the phone's daemon can do."""
        return self._connected().features

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> DaemonConnection:
        with self._lock:
            if self._connection is None or self._connection.lost is not None:
                self._connection = self.connect()
            return self._connection


def tcp_pipe(host: str, port: int, name: str) -> Pipe:
    """Connect to a daemon; DeviceError where nothing answers."""
    try:
        return TcpPipe(host, port, CONNECT_S)
    except OSError as error:
        raise DeviceError(
            f"{name} cannot be reached: {error.strerror or error}; is the phone on, its address right, "
            "and debugging over TCP enabled (`adb tcpip 5555` once, over USB)?"
        ) from error
