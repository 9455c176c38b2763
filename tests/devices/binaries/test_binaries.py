"""The user's own benchmark programs, by stand-ins that print what the real ones print."""

import os
import re
import sys
from pathlib import Path

import pytest

from compiler.errors import DeviceError, UsageError
from compiler.records import Metric, RunSpec
from devices.binaries import RUNS, binary_spec
from devices.runner import start_runner
from devices.sampling import take
from devices.transports.local import LocalDevice
from profiles import load_profile

# What executor_runner logs, to stderr, and benchmark_model prints.
EXECUTOR = """
runs, = [w.split("=")[1] for w in sys.argv if w.startswith("--num_executions=")]
assert {"--cpu_threads=1"} <= set(sys.argv) and any(w.startswith("--model_path=") for w in sys.argv)
sys.stderr.write("I 00:00:00.002 executorch:executor_runner.cpp:245] Model file is loaded.\\n")
sys.stderr.write(f"I 00:00:00.072 executorch:executor_runner.cpp:401] Model executed successfully {runs} time(s) in {int(runs) * 1.25:f} ms.\\n")
print("OutputX 0: tensor(sizes=[1, 2], [1., 2.])")
"""
BENCHMARK = """
assert {"--num_threads=1"} <= set(sys.argv)
print("INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602")
print("INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565")
print("INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): 1.24027e+06")
"""


@pytest.fixture
def start(tmp_path):
    def started(target, code, affinity=()):
        binary = tmp_path / "the tool"
        binary.write_text(f"#!{sys.executable}\nimport sys\n{code}")
        binary.chmod(0o755)
        (tmp_path / "model.bin").write_bytes(b"program")
        spec = RunSpec({"program": tmp_path / "model.bin", "serve": Path("unused")}, ("{python}",))
        spec = binary_spec(spec, target, str(binary), 1)
        return start_runner(LocalDevice(tmp_path / "cache"), spec, affinity)

    return started


def test_executor_runner_tells_the_mean_of_its_executions(start):
    session = start("executorch", EXECUTOR)
    assert session.ready["threads"] == 1 and session.ready["first_ns"] == 1_250_000
    assert take(session, 2, Metric.WALL) == {Metric.WALL: (1_250_000, 1_250_000)}


def test_benchmark_model_tells_load_first_and_mean(start):
    session = start("litert", BENCHMARK)
    assert (session.ready["load_ns"], session.ready["first_ns"]) == (5_579_000, 1_357_602_000)
    assert session.request({"do": "time", "iterations": 1}) == {"wall_ns": [1_240_270_000]}


def test_it_runs_on_the_processors_that_are_asked_for(start):
    cpu = min(os.sched_getaffinity(0))
    code = f"{EXECUTOR}import os\nassert os.sched_getaffinity(0) == {{{cpu}}}\n"
    assert start("executorch", code, affinity=(cpu,)).ready["affinity"] == [cpu]


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        (
            "executorch",
            "print('Model executed successfully 1 time(s).')",
            "printed no times that can be read; its last words: 'Model executed",
        ),
        (
            "executorch",
            "sys.stderr.write('Model executed successfully 3 time(s) in 1.0 ms.')",
            "made 3 executions where 1 were asked for",
        ),
        (
            "litert",
            "sys.exit('cannot map the model')",
            "benchmark_model ended with exit code 1: 'cannot map the model'",
        ),
    ],
)
def test_a_program_that_fails_is_quoted(target, code, words, start):
    with pytest.raises(DeviceError, match=re.escape(words)):
        start(target, code)


def test_it_only_times(start):
    with pytest.raises(DeviceError, match="unknown request 'profile': executor_runner only times"):
        start("executorch", EXECUTOR).request({"do": "profile", "iterations": RUNS})


def test_what_cannot_be_run_is_refused(tmp_path):
    spec = RunSpec({"program": tmp_path}, ())
    with pytest.raises(
        UsageError, match=r"no benchmark program of tvm can be read; \[bin\] takes executorch, litert"
    ):
        binary_spec(spec, "tvm", "/bin/true", 1)
    with pytest.raises(UsageError, match=r"\[bin\] litert: there is no file '/no/such'"):
        binary_spec(spec, "litert", "/no/such", 1)


def test_a_profile_names_them_relative_to_itself(tmp_path):
    text = '[device]\nname = "x"\n[reach]\ntransport = "local"\n[run]\ntargets = ["litert"]\nthreads = 1\n'
    (tmp_path / "plain.toml").write_text(text)
    (tmp_path / "own.toml").write_text(
        text + '[bin]\nlitert = "tools/benchmark_model"\nexecutorch = "/opt/runner"\n'
    )
    plain, own = (load_profile(tmp_path / f"{name}.toml") for name in ("plain", "own"))
    assert own.binaries == {"litert": f"{tmp_path}/tools/benchmark_model", "executorch": "/opt/runner"}
    assert plain.binaries == {} and plain.digest() != own.digest()
    (tmp_path / "bad.toml").write_text(text + '[bin]\ntvm = "x"\n')
    with pytest.raises(UsageError, match=r"unknown \[bin\] tvm"):
        load_profile(tmp_path / "bad.toml")
