"""Kernels and tables -> a static executable for Linux, by LLVM and zig's linker: no NDK, no toolchain.

zig brings musl's sources and compiles them on its first use for a processor, which takes minutes;
later links take a fraction of a second.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.errors import UnsupportedModelError
from targets.tvm.processor import Processor
from targets.tvm.static import SYSTEM

HERE = Path(__file__).parent
LAST_WORDS = 500  # characters of the linker's own message


def build_kernels(module: Any, names: Sequence[str], processor: Processor, path: Path) -> None:
    """Write the object of the kernels of those names of a fused module, for a processor."""
    import tvm

    by_name = {variable.name_hint: variable for variable in module.functions}
    functions = {by_name[n]: module[n].with_attr("global_symbol", n) for n in names}
    kernels = tvm.IRModule(functions).with_attr("system_lib_prefix", "")
    tvm.tirx.build(kernels, target=processor.target(SYSTEM)).write_to_file(str(path))


def link(objects: Sequence[Path], tables: Path, processor: Processor, path: Path) -> None:
    """Write the executable of kernels' objects and `model.c`, which speaks the runner protocol."""
    from tvm_ffi import libinfo

    includes = {str(HERE), libinfo.find_include_path(), libinfo.find_dlpack_include_path()}
    zig(
        processor.triple(SYSTEM),
        *("-static", "-O2", "-s", "-fno-sanitize=undefined"),
        *(f"-I{folder}" for folder in sorted(includes)),
        *map(str, [tables, *sorted(HERE.glob("*.c")), *objects]),
        *("-lm", "-o", str(path)),
    )


def zig(triple: str, *arguments: str) -> None:
    """Run zig's C compiler for a machine; UnsupportedModelError with its last words where it fails."""
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split())[-LAST_WORDS:]
        raise UnsupportedModelError(f"zig cannot link the program for {triple}: {words}")
