"""Start the runner that a target describes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compiler.device import Device, Session
from compiler.records import RunSpec
from devices.binaries import start_binary


def start_runner(device: Device, spec: RunSpec, affinity: Sequence[int] = ()) -> Session:
    """Push the files of `spec`, start its command and return the session once it is ready.

    Raises DeviceError when the device or the runner fails.
    """
    places = {name: device.push(path) for name, path in spec.files.items()}
    if any("{python}" in part for part in spec.command):
        places["python"] = device.interpreter(spec.runtime)
    command = [_fill(part, places) for part in spec.command]
    if spec.binary:
        return start_binary(device, command, spec.binary, affinity)
    env = {key: _fill(value, places) for key, value in spec.env.items()}
    return device.start(command, env, affinity)


def _fill(text: str, places: dict[str, str]) -> str:
    # Known names only, and in one pass: other braces (JSON, say) and braces in paths stay as they are.
    names = "|".join(map(re.escape, places))
    return re.sub(r"\{(" + names + r")\}", lambda match: places[match[1]], text)
