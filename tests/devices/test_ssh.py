"""Boards by SSH that refuse us or go away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compiler.errors import DeviceError

asyncssh = pytest.importorskip("asyncssh", reason="asyncssh is missing: pip install 'edgewright[ssh]'")

from devices.transports.ssh import SshAddress, open_board, parse_address  # noqa: E402

pytestmark = pytest.mark.target


def address(board) -> SshAddress:
    return SshAddress("127.0.0.1", "me", board.port)


def test_addresses() -> None:
    assert parse_address("pi@raspberry:2222") == SshAddress("raspberry", "pi", 2222)
    assert parse_address("raspberry") == SshAddress("raspberry")
    assert str(parse_address("pi@raspberry")) == "pi@raspberry"
    for text in ("", "pi@", "a b", "-oProxyCommand=x", "pi@h:x"):
        with pytest.raises(DeviceError, match="accepted: ssh:USER@HOST"):
            parse_address(text)


def test_a_host_that_is_not_known_is_refused(ssh_server, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(DeviceError, match=r"host key of 127\.0\.0\.1 is not in ~/\.ssh/known_hosts"):
        open_board(address(ssh_server), ssh_server.options() | {"known_hosts": str(tmp_path / "known")})


def test_a_key_that_is_not_taken_says_what_to_do(ssh_server, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    with pytest.raises(DeviceError, match="takes none of your keys: `ssh-copy-id me@127"):
        open_board(address(ssh_server), ssh_server.options() | {"client_keys": [str(tmp_path / "other")]})


def test_nothing_that_answers() -> None:
    with pytest.raises(DeviceError, match=r"ssh:me@127\.0\.0\.1:9 cannot be reached"):
        open_board(SshAddress("127.0.0.1", "me", 9), {"known_hosts": None, "config": None})


def test_a_board_that_goes_during_a_command_is_lost_and_comes_back(ssh_server) -> None:
    device = open_board(address(ssh_server), ssh_server.options())
    threading.Timer(0.5, ssh_server.server.drop).start()
    with pytest.raises(DeviceError, match="was lost"):
        device.run(["sleep", "600"], timeout_s=300)
    assert device.run(["echo", "back"]).stdout == "back\n"
    device.close()
    device.close()


def test_the_boards_own_python_is_preferred_to_a_bundle(ssh_server) -> None:
    device = open_board(address(ssh_server), ssh_server.options())
    assert device.interpreter("") == "python3"
    device.close()
