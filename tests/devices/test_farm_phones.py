"""Leases and a farm over two stand-in phones, each with the genuine adb daemon."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from devices import open_device
from devices.farm import ProcessFarm
from devices.lease import identity, lease
from tests.devices.test_soak import soak  # noqa: F401  (a fixture)
from tests.standin_phone import running_phone

pytestmark = pytest.mark.target


@pytest.fixture(scope="module")
def second():
    with running_phone() as started:
        yield started


def test_a_phone_is_one_device_by_whatever_way(phone, second, adb_server, tmp_path: Path) -> None:
    ways = [f"adb:direct:{phone.serial}", f"adb:server@{adb_server.port}:{phone.serial}"]
    direct, through, other = (open_device(spec) for spec in (*ways, f"adb:direct:{second.serial}"))
    with closing(direct), closing(through), closing(other):
        assert identity(direct) == identity(through) != identity(other)
        assert direct.fingerprint() == other.fingerprint()
        with lease(direct, folder=tmp_path), lease(other, wait_s=0, folder=tmp_path):
            pass
    with ProcessFarm(ways, tmp_path / "m.sqlite") as farm:
        assert [one.reason for one in farm.devices()] == ["", f"it is the device {ways[0]!r}, by another way"]


def test_another_process_cannot_have_the_phone(phone, tmp_path: Path) -> None:
    spec = f"adb:direct:{phone.serial}"
    with closing(open_device(spec)) as device, lease(device):
        words = pytest.raises(DeviceError, match=r"no device of the farm can be used|is in use by pid")
        with words, ProcessFarm([spec], tmp_path / "m.sqlite", wait_s=0) as farm:
            while not farm.devices()[0].reason:
                farm.drain()
            raise DeviceError(farm.devices()[0].reason)


def test_twelve_measurements_over_two_phones(soak, phone, second, tmp_path: Path) -> None:  # noqa: F811
    specs = [f"adb:direct:{one.serial}" for one in (phone, second)]
    found = soak.soak(specs, 12, str(tmp_path / "m.sqlite"), tmp_path / "cache")
    assert soak.faultless(found, flat=False), found
    assert sum(its["done"] for its in found["devices"].values()) == 12
    assert all(its["done"] and not its["faults"] for its in found["devices"].values())
