"""Real architectures, BatchNorm randomised: import, merge, lower, run, compare, export again.

For the six reparameterizable models the merged graph is held against timm's own
`reparameterize_model`, whose class names the compiler does not know.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch

import edgewright as ew
from compiler.evaluate import evaluate
from compiler.export import export_graph
from compiler.ir.text import parse_graph, print_graph
from edgewright.models import load_model
from edgewright.stages import prepare

REPARAMETERIZABLE = (
    "repvgg_a0",
    "mobileone_s0",
    "mobileone_s1",
    "repghostnet_050",
    "repvit_m0_9",
    "fastvit_t8",
)
OTHERS = (
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_small_050",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "mobilevit_xxs",
)


@pytest.mark.parametrize("name", REPARAMETERIZABLE + OTHERS)
def test_graphs_stay_equal_and_export_again(name: str) -> None:
    loaded = load_model(f"timm:{name}", None, randomize=3)
    prepared = prepare(loaded)
    graph, (x,) = prepared.graph, loaded.args
    with torch.no_grad():
        wanted = copy.deepcopy(loaded.source).double()(x.double())
    scale = wanted.abs().max()
    # Weights are folded in float64 and stored in float32: what is left is one rounding a weight.
    assert (evaluate(graph, [x], torch.float64)[0] - wanted).abs().max() < 1e-5 * scale
    assert torch.equal(export_graph(graph).module()(x), evaluate(graph, [x])[0])
    assert parse_graph(print_graph(graph)) == graph
    counts = graph.histogram()
    assert not any("batch_norm" in op for op in counts)
    if name in REPARAMETERIZABLE:
        assert counts["aten.conv2d.default"] <= timm_convolutions(loaded.source)


def timm_convolutions(model: torch.nn.Module) -> int:
    """Return how many convolutions timm's own reparameterized form runs."""
    from timm.utils import reparameterize_model

    merged = reparameterize_model(model)
    return sum(isinstance(m, torch.nn.Conv2d) for m in merged.modules())


@pytest.mark.parametrize("name", ["fastvit_t8", "mobilenetv3_small_050"])
def test_compiles_verified(name: str, tmp_path) -> None:
    artifact = ew.compile(f"timm:{name}", profile="host", randomize=3, out=tmp_path / "out")
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    assert manifest["verification"]["passed"]
    assert manifest["verification"]["max_relative_error"] < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", REPARAMETERIZABLE + OTHERS)
def test_every_model_compiles_verified(name: str, tmp_path) -> None:
    test_compiles_verified(name, tmp_path)
