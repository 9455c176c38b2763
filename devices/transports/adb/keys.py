"""The RSA keys that tell a phone who we are.

Our own pair is made once in the user's configuration folder, the private key readable by the user
alone. The pair of the adb program (`~/.android/adbkey`), which the phone may know already, is tried
too. adb-shell makes and reads them; it comes with `edgewright[android]`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import DeviceError

NAME = "adbkey"


@dataclass(frozen=True)
class Key:
    """One key pair: `sign` signs the phone's 20-byte token, `public` is what the phone keeps."""

    path: Path
    public: bytes
    sign: Callable[[bytes], bytes]


def default_folder() -> Path:
    """Return where our own keys are kept unless the caller says otherwise."""
    return Path.home() / ".config" / "edgewright"


def android_key() -> Path:
    """Return where the adb program keeps its key."""
    return Path.home() / ".android" / NAME


def load_keys(folder: Path, others: Sequence[Path] = ()) -> tuple[Key, ...]:
    """Return our own key, made where there is none, and those of `others` that exist.

    Raises DeviceError where adb-shell is not installed or a key cannot be read or made.
    """
    own = folder / NAME
    try:
        if not own.exists():
            _make(own)
        return (_load(own), *(_load(path) for path in others if path.exists() and _public(path).exists()))
    except (OSError, ValueError) as error:
        raise DeviceError(f"cannot use the adb keys in {str(folder)!r}: {error}") from error


def _make(path: Path) -> None:
    """Make a pair; the private key is never readable by others, not for a moment."""
    keygen = _adb_shell().keygen
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".adbkey") as private:  # mode 0700
        made = Path(private) / NAME
        keygen(str(made))
        made.chmod(0o600)
        os.replace(_public(made), _public(path))
        os.replace(made, path)


def _load(path: Path) -> Key:
    signer = _adb_shell().signer(str(path))
    return Key(path, bytes(signer.GetPublicKey()).rstrip(b"\0\n"), signer.Sign)


def _public(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


@dataclass(frozen=True)
class _AdbShell:
    keygen: Callable[[str], None]
    signer: Callable[[str], Any]


def _adb_shell() -> _AdbShell:
    try:
        from adb_shell.auth.keygen import keygen
        from adb_shell.auth.sign_cryptography import CryptographySigner
    except ImportError as error:
        raise DeviceError(
            f"reaching a phone without an adb server needs adb-shell ({error}); "
            "install it with: pip install 'edgewright[android]'"
        ) from error
    return _AdbShell(keygen, CryptographySigner)
