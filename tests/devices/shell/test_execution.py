"""Scripts that get stuck: killed, and where it changes nothing, run again. This machine's sh stands in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from devices import linux
from devices.shell import ShellDevice, execution
from tests.devices.local_shell import LocalShell


@pytest.fixture
def device(tmp_path: Path):
    shell = LocalShell(tmp_path, os.environ["PATH"])
    yield ShellDevice(shell, linux, '"$HOME"/ours')
    shell.close()  # waits for every process: what was not killed fails the test


def test_a_script_that_gets_stuck_is_killed_and_one_that_may_be_is_run_again(
    device, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(execution, "AGAIN_S", 0.5)
    once = f"cd '{tmp_path}'; mkdir been 2>/dev/null && exec sleep 600; echo well"
    assert device.execute(once, 60.0, repeatable=True).stdout == "well\n"
    with pytest.raises(DeviceError, match=r"here did not answer within 0\.5 s"):
        device.execute("sleep 600 & sleep 600", 0.5)


def test_stuck_state_is_read_again(device, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(execution, "AGAIN_S", 0.5)
    stuck = f"[ -e '{tmp_path}/been' ] || {{ : >'{tmp_path}/been'; sleep 600; }}\n"
    monkeypatch.setattr(linux, "STATE_SCRIPT", stuck + linux.STATE_SCRIPT)
    assert device.state().load_1min is not None
