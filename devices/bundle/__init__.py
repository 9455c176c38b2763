"""Runtime bundles: a runtime for an aarch64 Linux or Android device that has nothing installed.

A bundle is Debian's arm64 glibc and Python 3.11 (`base.toml`) and the official aarch64 wheels of one
runtime (`<runtime>.toml`), every file pinned by SHA-256. It is assembled on the host, pushed once by its
content, and started through its own loader, so that the device's libc does not matter: no root, no
chroot, no NDK.
"""

from devices.bundle.launcher import install
from devices.bundle.pins import runtimes

__all__ = ["install", "runtimes"]
