"""One question to a running adb server, which is never started.

A request is its length in four hexadecimal digits and the text; the answer is OKAY or FAIL, and a text in
the same form.
"""

from __future__ import annotations

import socket

ADB_PORT = 5037  # unless ANDROID_ADB_SERVER_PORT says otherwise
TIMEOUT_S = 5.0


def query(request: str, port: int) -> str:
    """Return the server's answer; OSError where none runs, it refuses, or it does not answer in time."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(f"{len(request):04x}{request}".encode())
        status = _exactly(connection, 4)
        text = _exactly(connection, int(_exactly(connection, 4), 16)).decode(errors="replace")
    if status != b"OKAY":
        raise ConnectionRefusedError(text)
    return text


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = connection.recv(count - len(data))
        if not received:
            raise ConnectionResetError("the adb server closed the connection")
        data += received
    return data
