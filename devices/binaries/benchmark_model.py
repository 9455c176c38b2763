"""LiteRT's `benchmark_model`: it tells the load, the first inference and the mean of the others, in µs."""

from __future__ import annotations

from devices.binaries.tool import NUMBER, Reading, Tool, find

PATTERN = (
    rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, "
    rf"Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}"
)


def read(text: str, runs: int) -> Reading:
    """Return the times of its summary line."""
    load, first, _, mean = (round(float(us) * 1e3) for us in find(PATTERN, text, "benchmark_model").groups())
    return Reading(mean_ns=mean, load_ns=load, first_ns=first)


TOOL = Tool(
    "benchmark_model",
    "--num_threads",
    (
        "--num_threads={threads}",
        "--graph={program}",
        "--num_runs={runs}",
        *("--warmup_runs=1", "--warmup_min_secs=0", "--min_secs=0"),
    ),
    read,
)
