"""Emulated Arm boards with the runtimes' own aarch64 wheels, made once on a machine and kept."""

import pytest

from devices import open_device
from devices.transports.emulated.emulator import unusable


@pytest.fixture(scope="session")
def board():
    """A board by its core's name; some 700 MB in edgewright's cache that hardly change."""
    if reason := unusable():
        pytest.skip(reason)
    return lambda core="cortex-a76": open_device(f"emulated:{core}")
