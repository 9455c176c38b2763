"""A program whose sizes are known only at run time, exported at an example that is none of torch's own."""

import json

import pytest
import torch
from torch import nn

from edgewright.cli import main
from targets import list_targets

FIXED = {"litert"}  # its converter writes fixed sizes


class Tokens(nn.Module):
    """Attention of two heads over an open number of rows, of an open number of tokens."""

    def __init__(self):
        super().__init__()
        self.qkv, self.norm, self.out = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(self.norm(x + y.reshape(rows, tokens, width)))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    torch.manual_seed(0)
    module = Tokens().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.2, 0.4)
    rows, tokens = torch.export.Dim("rows", min=1, max=8), torch.export.Dim("tokens", min=1, max=32)
    x = torch.randn(3, 7, 8)
    path = tmp_path_factory.mktemp("open") / "tokens.pt2"
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: rows, 1: tokens},)), path)
    return path


@pytest.mark.parametrize("target", list_targets())
def test_open_sizes_are_verified_at_two_sizes_or_refused(target, program, tmp_path, capsys):
    code = main(["compile", str(program), "--target", target, "--out", str(tmp_path / "out"), "--json"])
    captured = capsys.readouterr()
    if target in FIXED:
        assert code == 3 and "float32[n0, n1, 8]): a size is known only at run time" in captured.err
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, captured.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    cases = [c["inputs"] for c in manifest["verification"]["comparisons"]]
    assert cases == ["example", "seed 1", "seed 2", "n0 = 1, n1 = 1"]
    called = json.loads((tmp_path / "out" / "io.json").read_text())["methods"]["forward"]
    assert called["inputs"][0]["shape"] == [3, 7, 8] and called["outputs"][0]["shape"] == [3, 7, 5]


def test_a_refusal_of_an_sdk_says_which_sizes_were_open(tmp_path, capsys):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    height, width = torch.export.Dim("height", min=8, max=64), torch.export.Dim("width", min=8, max=64)
    shapes = ({2: height, 3: width},)
    program = torch.export.export(module, (torch.randn(1, 3, 9, 13),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "image.pt2")
    options = ["--target", "tvm", "--out", str(tmp_path / "out")]
    assert main(["compile", str(tmp_path / "image.pt2"), *options]) == 3
    assert "sizes n0, n1 are open" in capsys.readouterr().err
