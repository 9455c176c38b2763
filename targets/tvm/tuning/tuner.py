"""A graph -> its kernels, ready to be tuned for a profile's processor."""

from __future__ import annotations

from compiler.device import DeviceProfile
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from targets.tvm.lower import fused_module
from targets.tvm.processor import stated, this_machine
from targets.tvm.tuning import THREADS
from targets.tvm.tuning.kernels import read_kernels
from targets.tvm.tuning.search import KernelTuner


def tuner(graph: Graph, profile: DeviceProfile) -> KernelTuner:
    """Return the kernels that lowering a graph makes.

    Raises UnsupportedModelError where TVM does not take it, UsageError for a profile of several threads.
    """
    if profile.threads != THREADS:
        raise UsageError(
            f"TVM's kernels are tuned for {THREADS} thread, the profile {profile.name!r} asks for "
            f"{profile.threads}: tune for a profile with threads = {THREADS}"
        )
    processor = this_machine() if profile.arch is None else stated(profile)
    kernels, refused = read_kernels(fused_module(graph))
    return KernelTuner(kernels, refused, processor)
