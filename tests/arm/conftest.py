"""An emulated Arm board with the runtimes' own aarch64 wheels, made once on a machine and kept."""

import fcntl
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.arm.board import KIT, Board

CPU = "cortex-a76"
# PyPI's torch for aarch64 links CUDA since 2.11; ExecuTorch 1.4 wants a symbol that 2.10 does not have.
TORCH = ("torch==2.10.0", "numpy", "typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2")
WHEELS = {
    "executorch": ("executorch==1.3.1", *TORCH, "markupsafe", "fsspec"),
    "litert": ("ai-edge-litert", "numpy"),
    "onnxruntime": ("onnxruntime", "numpy"),
    "tvm": (),  # its programs are executables
}


def kept() -> Path:
    """Return where the board is kept: some 400 MB that hardly change."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgewright" / "standin"


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """A board that can run programs of one target."""
    if not (shutil.which("apt-get") and platform.machine() == "x86_64"):
        pytest.skip("apt-get on x86-64 is missing: the board is made of Debian's packages and qemu's")
    folder = kept()
    folder.mkdir(parents=True, exist_ok=True)

    def made(target: str) -> Board:
        wheels = [w if "==" in w else f"{w}=={version(w)}" for w in WHEELS[target]]
        with (folder / ".tests").open("w") as lock:  # the kit locks `make`, not `pip`
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run([KIT, "make", "--dir", folder, "--no-count"], check=True)
            if wheels:
                subprocess.run([KIT, "pip", "--dir", folder, *wheels], check=True)
        sites = [wheel.partition("==")[0] for wheel in wheels]
        return Board(tmp_path_factory.mktemp("pushed"), folder, CPU, sites)

    return made
