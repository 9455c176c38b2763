"""Programs of one float32 and one int8 model on an Arm processor, each in its own runtime there.

The processor is emulated (qemu-user): what it computes is an Arm processor's, its times mean nothing.
ExecuTorch, LiteRT and ONNX Runtime are the official aarch64 wheels; TVM's program is the executable it
was compiled to, statically linked.
"""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.compress.segments import segments
from compiler.errors import DeviceError
from compiler.plan import Decision, Plan
from compiler.records import Metric
from devices import open_device
from devices.runner import start_runner
from devices.sampling import take
from devices.transports.emulated.cores import CORES
from edgewright.artifact import read_artifact
from edgewright.cli import main
from edgewright.compilation import compile
from edgewright.models import load_model
from edgewright.operations import profile_operations
from edgewright.profiling import profile
from edgewright.runtime import infer
from edgewright.stages import prepare
from profiles import load_profile
from targets import get_target, list_targets

ARM = load_profile("emulated-cortex-a76")
FLOAT_ERROR = 1e-4
INT8_SNR = 20.0  # dB against the model in float64
SAME_SNR = 30.0  # dB against the same program on this machine: kernels round ties their own way
REPEATS = 1e-3  # of the count, between processes


class Net(nn.Module):
    """An inverted residual block behind a strided convolution, a pool and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6())
        self.depth = nn.Sequential(
            nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False), nn.BatchNorm2d(48), nn.ReLU6()
        )
        self.narrow = nn.Sequential(nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(self.depth(self.wide(x)))
        return self.head(x.mean((2, 3)))


def snr(found, wanted):
    """Return the signal over the error, in dB."""
    found, wanted = found.double(), wanted.double()
    return float(10 * torch.log10(wanted.square().mean() / (found - wanted).square().mean()))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    module, x = Net().eval(), torch.randn(1, 3, 32, 32)
    load_model(module, x, randomize=3)  # in place
    return module.requires_grad_(False), x


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    """Compile for the board; return the artifact."""
    module, x = model

    @cache
    def made(target, precision):
        graph = prepare(load_model(module, x)).graph
        decisions = (
            [Decision(s.site, "precision", "int8") for s in segments(graph)] if precision == "int8" else []
        )
        calls = [(torch.randn(1, 3, 32, 32),) for _ in range(8)]
        folder = tmp_path_factory.mktemp("built") / target
        return compile(module, ARM, target, Plan(tuple(decisions)), x, folder, calibration=calls)

    return made


def counts(artifact, device, iterations=5):
    """Return the instructions of inferences in a process of their own, without the first."""
    session = start_runner(device, get_target(artifact.manifest["target"]).run_spec(artifact, ARM))
    try:
        return take(session, iterations, Metric.INSTRUCTIONS)[Metric.INSTRUCTIONS][1:]
    finally:
        session.close()


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("target", list_targets())
def test_a_program_agrees_with_torch_on_an_arm_processor(target, precision, model, built, board):
    module, x = model
    artifact = built(target, precision)
    wanted = module.double()(x.double()).float()
    module.float()
    runtime = get_target(target)
    [[found]] = infer(artifact, runtime, ARM, [(x,)], device=board())
    [[here]] = infer(artifact, runtime, ARM, [(x,)])
    assert found.shape == wanted.shape
    if precision == "float32":
        assert float((found - wanted).abs().max()) < FLOAT_ERROR * float(wanted.abs().max())
    else:
        assert snr(found, wanted) > INT8_SNR
        assert snr(found, here) > SAME_SNR


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=pytest.mark.slow if t == "executorch" else ()) for t in list_targets()],
)
def test_instructions_repeat_between_processes(target, built, board):
    one, two = (counts(built(target, "float32"), board()) for _ in range(2))
    assert len(one) == len(two) == 4 and min(one) > 10_000
    for a, b in zip(one, two, strict=True):
        assert abs(a - b) < REPEATS * a
    assert max(one) - min(one) < REPEATS * 10 * min(one)


def test_a_runtime_takes_the_kernels_it_has_for_the_core(built, board):
    artifact = built("litert", "float32")
    small, large = (min(counts(artifact, board(core))) for core in ("cortex-a53", "cortex-a76"))
    assert small > 1.2 * large


def test_a_profile_is_measured_in_instructions_on_its_own_core(built):
    artifact = built("tvm", "float32")
    found = profile(artifact, "emulated:cortex-a76")
    assert (found.metric, found.stable, len(found.rounds)) == (Metric.INSTRUCTIONS, True, 3)
    assert {sample for r in found.rounds for sample in r.samples} == {found.statistics.median}
    assert found.rounds[0].also == {} and found.rounds[0].before.temperature_c is None
    with pytest.raises(DeviceError, match=r"expects processor = 'cortex-a76 \(emulated\)'"):
        profile(artifact, "emulated:cortex-a72")


@pytest.mark.parametrize("target", ["onnxruntime", "tvm"])
def test_operations_are_counted_by_the_guest_s_own_clock(target, built):
    artifact = built(target, "float32")
    whole = profile(artifact, "emulated:cortex-a76").statistics.median
    found = profile_operations(artifact, "emulated:cortex-a76", iterations=15)
    assert "sum_ns" not in found and len(found["operations"]) == 6
    assert 0.9 * whole < found["sum_instructions"] < 1.4 * whole  # ONNX Runtime writes down each operation


def test_the_board_is_an_arm_processor(board):
    assert board().run(("uname", "-m")).stdout.strip() == "aarch64"
    assert "CPU part\t: 0xd0b" in board().run(("cat", "/proc/cpuinfo")).stdout
    assert "CPU part\t: 0xd05" in board("cortex-a55").run(("cat", "/proc/cpuinfo")).stdout


def test_tvm_s_program_is_an_arm_executable(built):
    artifact = built("tvm", "float32")
    lowering = artifact.manifest["lowering"]
    assert (lowering["route"], lowering["arch"], lowering["tuned"]) == ("static", "aarch64", False)
    header = (Path(artifact.folder) / "model").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 183


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-a76", "cortex-a72", "cortex-a55", "cortex-a53"])
@pytest.mark.parametrize("target", list_targets())
def test_mobileone_agrees_with_torch_on_every_board(target, core, tmp_path, capsys):
    out, spec = tmp_path / "mobileone_s0", "timm:mobileone_s0"
    options = ["--profile", f"emulated-{core}", "--target", target, "--randomize", "3", "-o", str(out)]
    assert main(["compile", spec, *options]) == 0
    if target == "executorch" and "atomics" not in CORES[core].features:
        capsys.readouterr()
        assert main(["profile", str(out), "--device", f"emulated:{core}"]) == 5
        assert "its processor has no atomics" in " ".join(capsys.readouterr().err.split())
        return
    artifact, loaded = read_artifact(out), load_model(spec, randomize=3)
    wanted = loaded.call_double(loaded.args, loaded.kwargs)[0]
    board = open_device(f"emulated:{core}")
    [[found]] = infer(
        artifact, get_target(target), load_profile(f"emulated-{core}"), [loaded.args], device=board
    )
    assert float((found.double() - wanted).abs().max()) < FLOAT_ERROR * float(wanted.abs().max())
    capsys.readouterr()
    assert main(["profile", str(out), "--device", f"emulated:{core}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metric"] == "instructions" and document["stable"], document
    with capsys.disabled():
        sys.stdout.write(f"{target} {core}: {document['median_count'] / 1e6:.2f} M instructions\n")
