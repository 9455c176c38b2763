"""A dual encoder with its prompts frozen: an image tower with a constant classifier."""

import json

import numpy as np
import pytest
import torch

from edgewright.cli import main
from edgewright.models import load_model

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F


class DualEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.projection = nn.Linear(8, 16, bias=False)
        self.embedding = nn.Embedding(500, 16)
        self.text = nn.Linear(16, 16)
        self.log_scale = nn.Parameter(torch.tensor(1.7))

    def forward(self, image, tokens):
        features = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        prompts = self.text(torch.tanh(self.embedding(tokens))).mean(1)
        left, right = F.normalize(self.projection(features), dim=-1), F.normalize(prompts, dim=-1)
        return self.log_scale.exp() * left @ right.t()


def dual():
    torch.manual_seed(0)
    return DualEncoder().eval(), (torch.randn(1, 3, 16, 16), torch.randint(0, 500, (1, 7)))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("freeze")
    (folder / "dual.py").write_text(MODEL)
    np.save(folder / "prompts.npy", np.random.default_rng(0).integers(0, 500, (5, 7)))
    return folder


def compiled(files, out, capsys, *options):
    arguments = ["compile", f"{files / 'dual.py'}:dual", "--freeze", f"tokens={files / 'prompts.npy'}"]
    code = main([*arguments, "--randomize", "3", "-o", str(out), "--json", *options])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def ops(manifest):
    [method] = manifest["methods"]
    return {op.split(".")[1]: count["after"] for op, count in method["operations"].items() if count["after"]}


def test_prompts_become_a_classifier(files, tmp_path, capsys):
    manifest = compiled(files, tmp_path / "out", capsys)
    [method] = manifest["methods"]
    assert [(i["name"], i["shape"]) for i in method["inputs"]] == [("image", [1, 3, 16, 16])]
    frozen = {"name": "tokens", "shape": [5, 7], "dtype": "int64", "value": None}
    assert manifest["frozen"] == [frozen], "35 values are too many for the manifest"
    assert [o["shape"] for o in method["outputs"]] == [[1, 5]]
    assert not {"embedding", "tanh", "exp", "batch_norm"} & set(ops(manifest))
    assert manifest["verification"]["passed"]
    assert {c["reference"] for c in manifest["verification"]["comparisons"]} == {"original model in float64"}


def test_a_ranking_alone_needs_one_matrix(files, tmp_path, capsys):
    manifest = compiled(files, tmp_path / "out", capsys, "--argmax-only")
    assert ops(manifest) == {"conv2d": 1, "relu": 1, "mean": 1, "linear": 1}
    comparisons = manifest["verification"]["comparisons"]
    assert {c["measure"] for c in comparisons} == {"ranking"}
    assert all(c["top1_agreement"] == c["order_agreement"] == 1.0 for c in comparisons)


def test_an_unknown_name_ends_with_the_inputs(files, tmp_path, capsys):
    model = f"{files / 'dual.py'}:dual"
    assert main(["compile", model, "--freeze", "token=1", "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no input 'token' to freeze; its inputs are image=1x3x16x16:float32, tokens=1x7:int64" in error


def test_the_classifier_is_the_one_of_the_prompts(files):
    prompts = torch.from_numpy(np.load(files / "prompts.npy"))
    model = load_model(f"{files / 'dual.py'}:dual", freeze={"tokens": prompts})
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.call((image,), {})[0], model.module(image, prompts))
