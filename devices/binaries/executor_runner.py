"""ExecuTorch's `executor_runner`: it tells the time of all its executions together, in milliseconds.

Its inputs are ones, and it does not tell how long it took to load the program.
"""

from __future__ import annotations

from compiler.errors import DeviceError
from devices.binaries.tool import NUMBER, Reading, Tool, find

PATTERN = rf"Model executed successfully (\d+) time\(s\) in {NUMBER} ms"


def read(text: str, runs: int) -> Reading:
    """Return the mean of `runs` executions."""
    found = find(PATTERN, text, "executor_runner")
    if int(found[1]) != runs:
        raise DeviceError(f"executor_runner made {found[1]} executions where {runs} were asked for")
    return Reading(mean_ns=round(float(found[2]) * 1e6 / runs))


TOOL = Tool(
    "executor_runner",
    "--cpu_threads",
    ("--cpu_threads={threads}", "--model_path={program}", "--num_executions={runs}"),
    read,
)
