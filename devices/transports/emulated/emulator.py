"""Make what an emulated board needs, once, in a cache of the host: its root, qemu and the counter."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from compiler.errors import DeviceError
from devices.bundle.assemble import assembled, base, make_folder, site
from devices.bundle.pins import Pins, read_pins
from devices.transports.emulated.cores import Core, cpuinfo, host_processors

HERE = Path(__file__).parent
PINS = HERE / "qemu.toml"
COUNTER = HERE / "count.c"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PYTHON = "python3.11"
GLIBC = "2.36"  # qemu.toml's: the counter is loaded beside it
COMPILE = ("-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-s")


@dataclass(frozen=True)
class Emulator:
    """The parts of an emulated board, as folders and files of this machine."""

    cache: Path
    core: Core
    root: Path
    prefix: Path
    tools: Path
    counter: Path
    version: str

    def command(self, tally: Path) -> tuple[str, ...]:
        """Return what stands in front of an aarch64 program; it counts into `tally`."""
        libraries = str(self.tools / LIBRARIES)
        loader = (f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries)
        options = ("-L", str(self.prefix), "-cpu", self.core.qemu, "-seed", "0")
        plugin = ("-plugin", f"{self.counter},tally={tally}")
        return (*loader, str(self.tools / "usr/bin/qemu-aarch64"), *options, *plugin)

    def python(self, runtime: str) -> Path:
        """Return a Python of the board that can import a runtime, as a virtual environment of its own."""
        packages = site(self.cache, runtime) if runtime else None
        name = packages.name if packages else "alone"
        place = self.prefix.parent / f"{PYTHON}-{name}-{self.root.name}"
        if not place.is_dir():
            make_folder(place, lambda folder: _environment(folder, self.root, packages))
        return place / "bin" / PYTHON


def unusable() -> str | None:
    """Return why this machine can run no emulated board, None where it can."""
    found = f"{platform.system()} on {platform.machine()}"
    if found != "Linux on x86_64":
        return f"emulated boards run on x86-64 Linux, this machine is {found}"
    return None


def make_emulator(name: str, core: Core, cache: Path) -> Emulator:
    """Return the emulator of a core, with what is missing made in `cache`; DeviceError where it cannot be."""
    if reason := unusable():
        raise DeviceError(reason)
    pins = read_pins(PINS)
    root, tools = base(cache), assembled(pins, cache)
    folder = cache / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    if any(mark in str(folder) for mark in ", "):
        raise DeviceError(f"qemu takes no path with a comma or a space: {str(folder)!r}")
    processors = host_processors()
    prefix = folder / f"{name}x{processors}-{root.name}"
    if not prefix.is_dir():
        make_folder(prefix, lambda new: _prefix(new, root, cpuinfo(core, processors)))
    return Emulator(cache, core, root, prefix, tools, _counter(folder), _version(pins))


def _prefix(folder: Path, root: Path, processors: str) -> None:
    """Lay out what qemu looks into before the host's own root: the board's, and its processors."""
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(processors, encoding="utf-8")
    (folder / "usr").symlink_to(root / "usr")
    for name in ("lib", "bin"):
        (folder / name).symlink_to(root / "usr" / name)


def _environment(folder: Path, root: Path, packages: Path | None) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / PYTHON).symlink_to(root / "usr" / "bin" / PYTHON)
    (folder / "pyvenv.cfg").write_text(f"home = {root / 'usr' / 'bin'}\n", encoding="utf-8")
    if packages:
        (folder / "lib" / PYTHON).mkdir(parents=True)
        (folder / "lib" / PYTHON / "site-packages").symlink_to(packages)


def _counter(folder: Path) -> Path:
    digest = hashlib.sha256(COUNTER.read_bytes()).hexdigest()[:12]
    place = folder / f"count-{digest}.so"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial") as name:
            made = Path(name) / "count.so"
            done = subprocess.run(
                [*_compiler(), *COMPILE, "-o", made, COUNTER], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise DeviceError(f"cannot compile the instruction counter: {done.stderr.strip()[-500:]}")
            made.replace(place)
    return place


def _compiler() -> tuple[str, ...]:
    if find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", f"x86_64-linux-gnu.{GLIBC}")
    found = shutil.which("cc")
    if found is None:
        raise DeviceError(
            "an emulated board needs a C compiler for its instruction counter: `pip install ziglang`, or "
            "install one as `cc`"
        )
    return (found,)


def _version(pins: Pins) -> str:
    return next(package.version for package in pins.packages if package.name == "qemu-user")
