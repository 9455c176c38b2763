"""Debian's adb on a server of its own, and the faulty phone."""

import os
import shutil
import subprocess

import pytest

from tests.faults.adb import Adb
from tests.faults.phone import faulty_phone


@pytest.fixture(scope="session")
def adb_program():
    """Debian's adb, installed where it is missing and may be."""
    if not shutil.which("adb") and shutil.which("apt-get") and os.getuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "adb"], check=True)
    return shutil.which("adb") or pytest.skip("adb is missing: apt-get install adb")


@pytest.fixture(scope="session")
def adb(adb_program, tmp_path_factory):
    client = Adb(adb_program, tmp_path_factory.mktemp("adb"))
    yield client
    client("kill-server")


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    with faulty_phone(tmp_path_factory.mktemp("faulty")) as phone:
        yield phone
