"""What is ExecuTorch's own: the memory plan, its report, and what its failures say."""

import gc

import pytest
import torch
from torch import nn

from compiler.errors import UnsupportedModelError
from targets import get_target
from targets.executorch import lower as lowering
from targets.executorch.legalise import legalise
from targets.quiet import quiet
from tests.targets.conftest import PROFILE

TARGET = get_target("executorch")
X = (1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu() + x


def test_inputs_are_the_caller_s_memory(lower, imports):
    """A planned input could be overwritten by an intermediate between two timed executions."""
    lowered = lower(TARGET, imports(Block(), torch.randn(X)))
    with quiet():
        from executorch.extension.pybindings import _portable_lib
    program = _portable_lib._load_program(str(lowered.folder / "model.pte"))
    meta = program.method_meta("forward")
    assert not meta.input_tensor_meta(0).is_memory_planned()
    assert meta.output_tensor_meta(0).is_memory_planned()


def test_the_report_tells_stages_and_kernels(lower, imports):
    report = lower(TARGET, imports(Block(), torch.randn(X))).report
    assert set(report["seconds"]) == {"export", "partition", "serialise"}
    assert (report["delegates"], report["outside_ops"], report["kernels"]) == (1, 0, [])


def test_no_program_lives_on_after_its_lowering(tmp_path, imports):
    """A calibration lowers hundreds of kernels in one process, and the SDK's caches kept each one's weights."""
    graph = imports(nn.Conv2d(3, 11, 7), torch.randn(1, 3, 9, 9))
    before = _held()
    TARGET.lower({"forward": graph}, PROFILE, tmp_path)
    assert _held() == before


def _held():
    gc.collect()
    tensors = (t for t in gc.get_objects() if type(t) is nn.Parameter)
    return sum(t.shape == (11, 3, 7, 7) for t in tensors)


def test_a_failure_of_the_sdk_names_the_node_and_module(monkeypatch, tmp_path, imports):
    graph = imports(Block(), torch.randn(X))
    node = next(n.name for n in graph.ops() if n.op == "aten.conv2d.default")

    def breaks(programs):
        raise RuntimeError(f"For {node}, call_function:{'x' * 5000} is not supported")

    monkeypatch.setattr(lowering, "_partition", breaks)
    with pytest.raises(UnsupportedModelError) as caught:
        TARGET.lower({"forward": graph}, PROFILE, tmp_path)
    message = str(caught.value)
    assert f"at node {node!r} in module 'conv' (aten.conv2d.default)" in message
    assert len(message) < 600
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_needs_no_rule_is_left_as_it_is(imports):
    graph = imports(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), torch.randn(X))
    assert legalise(graph) is graph


def test_a_symbolic_batch_lowers_and_runs_at_its_example_size(lower, imports):
    dims = ({0: torch.export.Dim("n", min=1, max=8)},)
    x = torch.randn(2, 3, 8, 8)
    lowered = lower(TARGET, imports(Block(), x, dynamic_shapes=dims))
    assert lowered.error(x) < 1e-5
