"""Run an artifact on given inputs in its own runtime, on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compiler.device import Device, DeviceProfile, Session
from compiler.errors import DeviceError
from compiler.records import Artifact
from compiler.target import Target
from devices import open_device
from devices.runner import start_runner


def infer(
    artifact: Artifact,
    target: Target,
    profile: DeviceProfile,
    calls: Sequence[Sequence[torch.Tensor]],
    fresh: bool = False,
    method: str | None = None,
    device: Device | None = None,
) -> list[list[torch.Tensor]]:
    """Return a method's outputs for each list of flat input tensors; the first method by default.

    It runs on `device`, or else on this machine. `fresh` starts the
    runner anew for each call, for programs that keep state between calls. Of a program for another
    processor its twin for this machine runs here. Raises DeviceError when the runner fails.
    """
    if device is None:
        device, profile = open_device("local"), profile.on_this_machine()
    results = []
    session: Session | None = None
    try:
        for call in calls:
            if session is None:
                spec = target.run_spec(artifact, profile, method)
                session = start_runner(device, spec, profile.affinity)
            results.append(_infer_once(session, device, call))
            if fresh:
                session.close()
                session = None
    finally:
        if session is not None:
            session.close()
    return results


def _infer_once(session: Session, device: Device, call: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name, device.workspace() as place:
        folder = Path(name)
        files = [
            device.push(_write(folder / f"input{i}.bin", tensor), place) for i, tensor in enumerate(call)
        ]
        shapes = [list(tensor.shape) for tensor in call]
        answer = session.request({"do": "infer", "inputs": files, "shapes": shapes, "outputs": place})
        outputs = answer.get("outputs")
        if not isinstance(outputs, list):
            raise DeviceError(f"the runner answered {answer} where outputs were expected")
        return [_read(output, device, folder / "output.bin") for output in outputs]


def _write(path: Path, tensor: torch.Tensor) -> Path:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    path.write_bytes(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return path


def _read(output: dict[str, Any], device: Device, copy: Path) -> torch.Tensor:
    device.pull(output["path"], copy)
    data = bytearray(copy.read_bytes())
    dtype = getattr(torch, output["dtype"])
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(output["shape"])
