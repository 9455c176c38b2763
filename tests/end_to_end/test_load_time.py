"""A generator left to a runtime that folds constants when it loads a program: a smaller file, equal results."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from profiles import load_profile
from targets import get_target


class Kronecker(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(8, 8, 8))
        self.f = nn.Parameter(torch.randn(8, 80, 80))

    def forward(self, x):
        blocks = self.a[:, :, None, :, None] * self.f[:, None, :, None, :]
        return F.linear(x, blocks.sum(0).reshape(640, 640))


def test_the_file_holds_the_generator_and_the_session_folds_it(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    x = torch.randn(3, 640)
    graph = canonicalize(import_model(Kronecker().eval(), (x,)))
    sizes = {}
    for load_time in (False, True):
        kept = dead_code(fold_weights(graph, load_time=load_time))
        folder = tmp_path / str(load_time)
        folder.mkdir()
        lowered = get_target("onnxruntime").lower({"forward": kept}, load_profile("host"), folder)
        path = folder / lowered.files[0]
        sizes[load_time] = path.stat().st_size
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        exact = evaluate(graph, [x], torch.float64)[0].numpy()
        assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    assert sizes[False] > 4 * 640 * 640
    assert sizes[True] < sizes[False] / 7
