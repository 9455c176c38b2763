"""An SSH server on the loopback that stands for a board: asyncssh's own, with this machine's shell behind it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@dataclass(frozen=True)
class Board:
    """Where the server listens, what a client has to know, and the folder its shell calls home."""

    port: int
    known_hosts: Path
    key: Path
    home: Path
    server: SshServer

    def options(self) -> dict[str, object]:
        """Return what asyncssh needs to be let in, and nothing of this user's."""
        return {
            "known_hosts": str(self.known_hosts),
            "client_keys": [str(self.key)],
            "agent_path": None,
            "config": None,
        }


class SshServer:
    """The server's thread."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.home = home
        self.acceptor = self.run(self._listen(folder))

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def drop(self) -> None:
        """Cut every connection, as when the cable is pulled."""
        for connection in self.connections:
            self.loop.call_soon_threadsafe(connection.abort)
        self.connections.clear()

    def close(self) -> None:
        self.drop()
        self.run(self._shut())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _shut(self) -> None:
        self.acceptor.close()
        await self.acceptor.wait_closed()

    async def _listen(self, folder: Path):
        owner = self

        class Connections(asyncssh.SSHServer):
            def connection_made(self, conn):
                owner.connections.append(conn)

        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Connections,
            server_host_keys=[str(folder / "host")],
            authorized_client_keys=str(folder / "client.pub"),
            process_factory=self._serve,
            sftp_factory=asyncssh.SFTPServer,
            encoding=None,
        )

    async def _serve(self, process: asyncssh.SSHServerProcess) -> None:
        """Run a command as sshd does: in a session of its own, which outlives the connection."""
        env = {"HOME": str(self.home), "PATH": PATH}
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(
            process.command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True
        )
        feeding = asyncio.create_task(_copy(process.stdin, child.stdin, close=True))
        await asyncio.gather(_copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr))
        code = await child.wait()
        feeding.cancel()
        process.exit(code if code >= 0 else 128 - code)


async def _copy(source, sink, close: bool = False) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    if close:
        sink.close()


@contextmanager
def ssh_board(folder: Path) -> Iterator[Board]:
    """Run a server with new keys in `folder`."""
    for name in ("host", "client"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
    home = folder / "home"
    home.mkdir()
    server = SshServer(folder, home)
    port = server.acceptor.get_port()
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    try:
        yield Board(port, known, folder / "client", home, server)
    finally:
        server.close()
