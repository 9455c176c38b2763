"""A phone on USB without an adb server, by adb-shell's USB transport (`edgewright[android]`).

Unverified on hardware: no phone is attached where this is tested. A running adb server holds the
interface, so that the phone is busy for us then.
"""

from __future__ import annotations

from typing import Any

from compiler.errors import DeviceError

READ_S = 3600.0
WRITE_S = 30.0


class UsbPipe:
    """Bulk transfers to one phone."""

    def __init__(self, serial: str | None) -> None:
        """Open the phone with this serial, or the only one."""
        self._usb = _find(serial)
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one transfer."""
        try:
            self._usb.bulk_write(bytes(data), WRITE_S)
        except Exception as error:
            raise _lost(error) from error

    def read(self, count: int) -> bytearray:
        """Block until `count` bytes came."""
        data = bytearray()
        while len(data) < count:
            try:
                data += self._usb.bulk_read(count - len(data), READ_S)
            except Exception as error:
                raise _lost(error) from error
        return data

    def close(self) -> None:
        """Release the phone."""
        if not self._closed:
            self._closed = True
            self._usb.close()


def _find(serial: str | None) -> Any:
    try:
        from adb_shell.transport.usb_transport import UsbTransport
    except ImportError as error:
        raise DeviceError(
            f"reaching a phone on USB without an adb server needs adb-shell and libusb ({error}); "
            "install them with: pip install 'edgewright[android]'"
        ) from error
    try:
        found = UsbTransport.find_adb(serial)
        found.connect(WRITE_S)
    except Exception as error:
        which = f"the phone {serial!r}" if serial else "a phone"
        raise DeviceError(
            f"cannot open {which} on USB ({error}): plug it in, enable USB debugging, "
            "and stop what holds it (`adb kill-server`)"
        ) from error
    return found


def _lost(error: Exception) -> OSError:
    # adb-shell and libusb raise families of their own; to the protocol they are all a lost pipe.
    return OSError(f"USB: {error}")
