"""A program without a runtime: TVM's kernels, a table of their calls, and C that speaks the protocol.

    fused Relax module -> Program (program.py) -> memory plan (arena.py, layout.py)
        -> model.c (emit.py) + kernels' object -> static executable (link.py)

The executable holds code alone and maps its weights from a file beside it, so that the programs of
several processors share them. It needs a Linux kernel and nothing else: no Python, no libraries.
"""

from __future__ import annotations

EXECUTABLE = "model"
TWIN = "model.host"
WEIGHTS = "weights.bin"
SYSTEM = "linux-musl"
ALIGNMENT = 64  # bytes; what TVM's code takes for granted of every buffer
