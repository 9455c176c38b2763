"""Programs of one float32 and one int8 model on an Arm processor, each in its own runtime there.

The processor is emulated (qemu-user): what it computes is an Arm processor's, its times mean nothing.
ExecuTorch, LiteRT and ONNX Runtime are the official aarch64 wheels; TVM's program is the executable it
was compiled to, statically linked.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.compress.segments import segments
from compiler.plan import Decision, Plan
from edgewright.compilation import compile
from edgewright.models import load_model
from edgewright.runtime import infer
from edgewright.stages import prepare
from profiles import load_profile
from targets import get_target, list_targets
from tests.arm.conftest import CPU

HOST = load_profile("host")
ARM = dataclasses.replace(HOST, name="board", arch="aarch64", cpu=CPU)
FLOAT_ERROR = 1e-4
INT8_SNR = 20.0  # dB against the model in float64
SAME_SNR = 30.0  # dB against the same program on this machine: kernels round ties their own way


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


def built(model, target, precision, folder):
    """Compile for the board; return the artifact."""
    module, x = model
    graph = prepare(load_model(module, x)).graph
    decisions = (
        [Decision(s.site, "precision", "int8") for s in segments(graph)] if precision == "int8" else []
    )
    calls = [(torch.randn(1, 3, 32, 32),) for _ in range(8)]
    return compile(module, ARM, target, Plan(tuple(decisions)), x, folder, calibration=calls)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("target", list_targets())
def test_a_program_agrees_with_torch_on_an_arm_processor(target, precision, model, board, tmp_path):
    module, x = model
    artifact = built(model, target, precision, tmp_path / "out")
    wanted = module.double()(x.double()).float()
    module.float()
    runtime = get_target(target)
    [[found]] = infer(artifact, runtime, ARM, [(x,)], device=board(target))
    [[here]] = infer(artifact, runtime, ARM, [(x,)])
    assert found.shape == wanted.shape
    if precision == "float32":
        assert float((found - wanted).abs().max()) < FLOAT_ERROR * float(wanted.abs().max())
    else:
        assert snr(found, wanted) > INT8_SNR
        assert snr(found, here) > SAME_SNR


def test_the_board_is_an_arm_processor(board):
    assert board("tvm").run(("uname", "-m")).stdout.strip() == "aarch64"
    assert "CPU part\t: 0xd0b" in board("tvm").run(("cat", "/proc/cpuinfo")).stdout


def test_tvm_s_program_is_an_arm_executable(model, tmp_path):
    artifact = built(model, "tvm", "float32", tmp_path / "out")
    lowering = artifact.manifest["lowering"]
    assert (lowering["route"], lowering["arch"], lowering["tuned"]) == ("static", "aarch64", False)
    header = (Path(artifact.folder) / "model").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 183
