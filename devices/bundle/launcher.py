"""Bring a runtime to a device: two folders and a launcher, pushed by content, so that twice costs nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from shlex import quote

from compiler.device import Device
from compiler.errors import DeviceError
from devices.bundle.assemble import base, site
from devices.bundle.processor import check_processor
from devices.discovery import default_cache

LAUNCHER = """#!{shell}
# Starts the Python of an edgewright runtime bundle through the loader beside it.
unset LD_PRELOAD LD_LIBRARY_PATH
export PYTHONHOME={usr} PYTHONPATH={site} PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
[ -w "${{TMPDIR:-/tmp}}" ] || export TMPDIR=/data/local/tmp
exec {usr}/lib/ld-linux-aarch64.so.1 --library-path {usr}/lib/aarch64-linux-gnu {usr}/bin/python3.11 "$@"
"""
MACHINE = "aarch64"
ASK = "uname -m; for shell in /bin/sh /system/bin/sh; do [ -x $shell ] && echo $shell && break; done"


def install(device: Device, runtime: str, cache: Path | None = None) -> str:
    """Return the path on a device of a Python that can import a runtime, "" for Python alone.

    `cache` is the host's folder for what is assembled, `~/.cache/edgewright` by default. Raises
    DeviceError where the device is no aarch64 Linux, its processor lacks what the runtime executes, or there
    is no such bundle, or it cannot be had.
    """
    cache = default_cache() if cache is None else cache
    shell = _shell(device)
    check_processor(runtime, device.run(("cat", "/proc/cpuinfo")).stdout, device.name)
    usr = f"{device.push(base(cache))}/usr"
    packages = device.push(site(cache, runtime)) if runtime else ""
    text = LAUNCHER.format(shell=shell, usr=quote(usr), site=quote(packages))
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        launcher = Path(folder) / f"python-{runtime or 'alone'}"
        launcher.write_text(text, encoding="utf-8")
        launcher.chmod(0o755)
        return device.push(launcher)


def _shell(device: Device) -> str:
    # Android keeps its shell in /system/bin, and a script's first line must name it by its path.
    done = device.run(("sh", "-c", ASK))
    words = done.stdout.split()
    if done.exit_code or len(words) != 2:
        raise DeviceError(f"{device.name} does not say what it is: {(done.stderr or done.stdout)[:200]!r}")
    if words[0] != MACHINE:
        raise DeviceError(f"runtime bundles are for {MACHINE} Linux, {device.name} is {words[0]}")
    return words[1]
