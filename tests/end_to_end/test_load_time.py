"""A generator left to a runtime that folds constants when it loads a program: a smaller file, equal results."""

import torch
from torch import nn
from torch.nn import functional as F

from edgewright.compilation import compile
from edgewright.explanation import explain


class Kronecker(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(8, 8, 8))
        self.f = nn.Parameter(torch.randn(8, 80, 80))

    def forward(self, x):
        blocks = self.a[:, :, None, :, None] * self.f[:, None, :, None, :]
        return F.linear(x, blocks.sum(0).reshape(640, 640))


def test_the_file_holds_the_generator_and_the_session_folds_it(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 640)
    model = nn.Sequential(Kronecker(), nn.ReLU(), Kronecker(), nn.Linear(640, 8)).eval()
    loaded = compile(model, "host", "onnxruntime", inputs=x, out=tmp_path / "loaded")
    built = compile(model, "host", "executorch", inputs=x, out=tmp_path / "built")
    assert sum(built.manifest["sizes_bytes"].values()) > 4 * 640 * 640
    assert sum(loaded.manifest["sizes_bytes"].values()) < 4 * 640 * 640 / 5
    assert loaded.manifest["lowering"]["operations"].get("Mul", 0) == 0, "the session computed it once"
    [method] = loaded.manifest["methods"]
    assert [p["place"] for p in method["placements"]] == ["load", "build"]
    shown = explain(tmp_path / "loaded")["placements"]["forward"]
    assert shown == method["placements"]
    assert "no weight of the program" in shown[1]["reason"], "the layer behind it merged into it"
    assert [p["place"] for p in built.manifest["methods"][0]["placements"]] == ["build", "build"]
