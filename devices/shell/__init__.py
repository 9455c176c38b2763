"""What every device reached through a POSIX shell shares; a transport gives only the `Shell`."""

from devices.shell.device import ShellDevice
from devices.shell.port import Shell

__all__ = ["Shell", "ShellDevice"]
