"""A processor that lacks what a bundle executes is told by name, before anything is pushed."""

import pytest

from compiler.errors import DeviceError
from devices.bundle import runtimes
from devices.bundle.processor import check_processor
from devices.transports.emulated.cores import CORES, cpuinfo


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72"])
def test_a_core_of_armv8_0_cannot_run_executorchs_wheels(core):
    with pytest.raises(
        DeviceError, match=r"board cannot run the bundle of executorch.* no atomics, and torch"
    ):
        check_processor("executorch", cpuinfo(CORES[core], 4), "board")
    for runtime in ("litert", "onnxruntime", ""):
        check_processor(runtime, cpuinfo(CORES[core], 4), "board")


def test_what_a_newer_core_or_a_silent_device_has_is_not_refused():
    for runtime in runtimes():
        check_processor(runtime, cpuinfo(CORES["cortex-a76"], 1), "board")
        check_processor(runtime, "", "board")
