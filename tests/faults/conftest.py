"""Debian's adb on a server of its own, and the faulty phone."""

import pytest

from tests.faults.adb import Adb
from tests.faults.phone import faulty_phone
from tests.standin_phone import made_phone


@pytest.fixture(scope="session")
def adb_program():
    """Debian's adb, as the stand-in kit unpacks it."""
    return str(made_phone() / "tools" / "adb" / "adb")


@pytest.fixture(scope="session")
def adb(adb_program, tmp_path_factory):
    client = Adb(adb_program, tmp_path_factory.mktemp("adb"))
    yield client
    client("kill-server")


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    with faulty_phone(tmp_path_factory.mktemp("faulty")) as phone:
        yield phone
