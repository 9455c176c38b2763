"""Groups cover four networks of the zoo as the merge engine leaves them, and half of each can go."""

import pytest
import torch

from compiler.compress.channel_groups import find_channels
from compiler.compress.decision import Setting
from compiler.compress.prune_channels import apply, offers
from compiler.cost.counts import node_counts
from compiler.evaluate import evaluate
from edgewright.models import load_model
from edgewright.models.torchvision_shim import import_torchvision
from edgewright.stages import prepare

pytestmark = pytest.mark.thorough

NETS = {
    "mobilenetv2_050": ({}, 24, {"channels:blocks.2.0~2", "channels:blocks.2.1"}),
    "repvgg_a0": ({}, 22, {"channels:stem", "channels:stages.3.0"}),
    "convnext_atto": ({}, 16, {"channels:stem.0", "channels:stages.2.blocks.3"}),
    "vit_tiny_patch16_224": (
        {"img_size": 32, "patch_size": 8},
        25,
        {"channels:patch_embed.proj", "heads:blocks.4"},
    ),
}


def _macs(graph):
    return sum(node_counts(graph, node).macs for node in graph.ops())


@pytest.mark.parametrize("name", NETS)
def test_half_of_each_group_can_go(name):
    import_torchvision()
    timm = pytest.importorskip("timm")
    options, count, some = NETS[name]
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, **options).eval()
    call = torch.randn(1, 3, 32, 32)
    graph = prepare(load_model(module, call, randomize=0)).graph
    refused = [g for g in find_channels(graph).groups if g.reason]
    assert [g.reason for g in refused] == ["it is a result of the model"]
    setting = Setting([(torch.randn(1, 3, 32, 32),) for _ in range(4)], step=8)
    found = offers(graph, setting)
    assert len(found) == count
    assert some <= {o.site for o in found}
    smaller = apply(graph, {o.site: o.options[-1] for o in found}, setting)
    (wanted,), (got,) = (evaluate(g, [call]) for g in (graph, smaller))
    assert got.shape == wanted.shape
    assert bool(got.isfinite().all())
    assert _macs(smaller) < 0.4 * _macs(graph)
    assert [n.name for n in smaller.ops()] == [n.name for n in graph.ops()]
