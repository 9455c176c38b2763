"""The same runner and program under the older tflite-runtime, in an environment of its own (numpy below 2)."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.evaluate import evaluate
from targets import get_target

TARGET = get_target("litert")
PYTHON = Path(sys.prefix) / "tflite-runtime" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason=f"tflite-runtime is not installed at {PYTHON}: make .venv/.ready"
)


@pytest.fixture
def older(lower):
    """A graph as the older runtime's process runs it."""

    def run(graph):
        lowered = lower(TARGET, graph)
        command = lowered.command(1)
        lowered.command = lambda threads: [str(PYTHON), *command[1:]]
        return lowered

    return run


def test_the_environment_is_the_older_one():
    code = "import numpy, tflite_runtime; print(numpy.__version__, tflite_runtime.__version__)"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    numpy, runtime = done.stdout.split()
    assert numpy.startswith("1.") and runtime == "2.14.0"


def test_a_float_program_agrees(older, imports):
    x = torch.randn(1, 4, 8, 8)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    lowered = older(imports(net, x))
    assert lowered.error(x) < 1e-5
    ready, timed = lowered.talk({"do": "time", "iterations": 3})[0]
    assert ready["threads"] == 1 and len(timed["wall_ns"]) == 3


def test_an_int8_program_agrees(older, imports):
    x = torch.randn(2, 4, 8, 8)
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    names = frozenset(n.name for n in graph.ops())
    quantized = quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), [(x,)])
    got, expected = older(quantized).infer(x)[0], evaluate(quantized, [x])[0]
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()
