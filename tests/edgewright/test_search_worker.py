"""A profile reaches the process that lowers as it is."""

from __future__ import annotations

import json

import pytest

from compiler.device import BenchmarkProtocol, Cluster, DeviceProfile, Memory
from compiler.preflight import Level, Preflight
from compiler.records import Metric
from edgewright.search_worker import profile_document, read_profile

FULL = DeviceProfile(
    "p", "d", "adb", ("t", "u"), 2, affinity=(4, 5), soc="s", isa=("dotprod",),
    protocol=BenchmarkProtocol(metric=Metric.CPU, cool_below_c=38.0, cooldown_max_s=60.0),
    expect={"machine": "m"}, arch="aarch64", cpu="cortex-a76",
    clusters=(Cluster("big", (4, 5), "Cortex-A76", 2400.0),), memory=Memory(4096, "LPDDR4"),
    cluster="big", sources={"device.soc": "the device, 2026-11-26"},
    preflight=Preflight(screen=Level.REFUSE, governors=("schedutil",)),
)  # fmt: skip


@pytest.mark.parametrize("profile", [FULL, DeviceProfile("q", "", "local", ("t",), 1)])
def test_a_profile_reads_back_equal(profile: DeviceProfile) -> None:
    back = read_profile(json.loads(json.dumps(profile_document(profile))))
    assert back == profile
    assert (back.digest(), back.protocol_digest()) == (profile.digest(), profile.protocol_digest())
    assert type(back.preflight.screen) is Level
