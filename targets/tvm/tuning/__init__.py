"""Schedules for TVM's kernels, found by MetaSchedule and measured as static programs on a device.

    fused Relax module -> kernels (kernels.py) -> candidates (context.py) -> programs (programs.py)
        -> measured by the caller (search.py) -> applied to the next module that has the kernel (apply.py)

The candidates of a batch are built here, in process, and measured by what the caller hands in: TVM's
own builder and runner start processes that each import `tvm.s_tir.tensor_intrin`, which takes minutes.
"""

from __future__ import annotations

THREADS = 1  # of a tuned program: a static executable has one
