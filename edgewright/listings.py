"""Devices and profiles as JSON documents, for listing and showing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compiler.errors import DeviceError
from devices import find_devices, open_device
from profiles import list_profiles, load_profile

DEVICES_SCHEMA = "edgewright.devices/1"
CLEANED_SCHEMA = "edgewright.devices.cleaned/1"
DEVICE_SCHEMA = "edgewright.device/1"
PROFILES_SCHEMA = "edgewright.profiles/1"
PROFILE_SCHEMA = "edgewright.profile/1"


def devices_document(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the devices that can be seen now, with the problem of each that cannot be used."""
    found = find_devices(environment or {})
    return {
        "schema": DEVICES_SCHEMA,
        "devices": [{"device": f.spec} | ({"problem": f.problem} if f.problem else {}) for f in found],
    }


def cleaned_document(spec: str) -> dict[str, Any]:
    """Remove what edgewright left on a device, its private folder and nothing else, and say how much."""
    clean = getattr(open_device(spec), "clean", None)
    if clean is None:
        raise DeviceError(f"{spec} keeps nothing that could be cleaned")
    return {"schema": CLEANED_SCHEMA, "device": spec, "freed_bytes": clean()}


def device_document(spec: str) -> dict[str, Any]:
    """Return what one device says of itself; raises DeviceError where it cannot be reached."""
    device = open_device(spec)
    state = asdict(device.state())
    return {
        "schema": DEVICE_SCHEMA,
        "device": device.name,
        "fingerprint": dict(device.fingerprint()),
        "state": {**state, "frequency_mhz": list(state["frequency_mhz"])},
    }


def profiles_document() -> dict[str, Any]:
    """Return the profiles that come with edgewright."""
    found = [load_profile(name) for name in list_profiles()]
    return {
        "schema": PROFILES_SCHEMA,
        "profiles": [
            {
                "profile": p.name,
                "transport": p.transport,
                "targets": list(p.targets),
                "description": p.description,
            }
            for p in found
        ],
    }


def profile_document(name: str) -> dict[str, Any]:
    """Return one profile, read strictly; raises UsageError for an unknown key."""
    profile = load_profile(name)
    return {"schema": PROFILE_SCHEMA, **asdict(profile), "digest": profile.digest()}
