"""The digits reference net of three seeds: refit recovers what half of the neurons gave, by every criterion."""

import pytest
import torch
from torch import nn

from compiler.compress.channel_scores import criteria
from compiler.compress.decision import Setting
from compiler.compress.prune_channels import apply, offers
from compiler.evaluate import evaluate
from tests.models.small import compile_graph

pytestmark = pytest.mark.slow


class Residual(nn.Module):
    """h + V relu(U h + a) + c, eight times."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
        self.up = nn.ModuleList(nn.Linear(48, 64) for _ in range(8))
        self.down = nn.ModuleList(nn.Linear(64, 48) for _ in range(8))
        with torch.no_grad():
            self.first.weight.normal_(0, 1 / 8)
            for up, down in zip(self.up, self.down, strict=True):
                up.weight.normal_(0, (2 / 48) ** 0.5)
                down.weight.normal_(0, 0.35 / 8)
                up.bias.zero_(), down.bias.zero_()

    def forward(self, x):
        h = self.first(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(up(h).relu())
        return self.head(h)


def _data(seed):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = [(x[i], y[i]) for i in order.split([900, 400, 497])]
    mean, spread = parts[0][0].mean(0), parts[0][0].std(0) + 0.1
    return [((x - mean) / spread, y) for x, y in parts]


def _trained(seed, x, y):
    net = Residual(seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for step in range(2500):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 2500)
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return net.eval()


def _accuracy(graph, x, y):
    return float((evaluate(graph, [x])[0].argmax(1) == y).double().mean())


def test_half_of_the_neurons_go_and_refit_recovers():
    dense, pruned = [], {name: [] for name in criteria()}
    for seed in range(3):
        train, calibration, test = _data(seed)
        net = _trained(seed, *train)
        graph = compile_graph(net, test[0])
        dense.append(_accuracy(graph, *test))
        # the graph's batch is fixed: calibration rows are repeated up to its size
        rows = calibration[0].repeat(2, 1)[: len(test[0])]
        setting = Setting([(rows,)], step=8)
        sites = [o.site for o in offers(graph, setting) if "up" in o.site]
        assert len(sites) == 8
        for name in criteria():
            smaller = apply(graph, dict.fromkeys(sites, f"keep:32:{name}"), setting)
            pruned[name].append(_accuracy(smaller, *test))
    mean = sum(dense) / 3
    assert mean > 0.95
    for name, found in pruned.items():
        assert sum(found) / 3 > mean - 0.03, (name, found, dense)
