"""A weight from Kronecker factors: exact at full bond, an error known beforehand, fewer bytes at load."""

import pytest
import torch
from torch import nn

from compiler.compress import mpo
from compiler.compress.decision import Setting
from compiler.compress.mpo import factored, halves, stored
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from compiler.passes import PIPELINE
from compiler.passes.load_time import load_generators
from compiler.passes.placement import Threshold
from tests.models.graphs import stored_bytes
from tests.models.small import compile_graph


def _weight(out=24, in_=20, seed=0):
    return torch.randn(out, in_, generator=torch.Generator().manual_seed(seed)).double()


def test_full_bond_is_exact_and_the_error_is_what_the_svd_drops():
    weight = _weight()
    for bond in range(1, 17):
        found = factored(weight, bond)
        assert float((found.weight - weight).norm()) == pytest.approx(found.error, rel=1e-9, abs=1e-12)
        assert found.left.numel() + found.right.numel() == stored((24, 20), bond)
    assert found.error < 1e-12  # 4 x 4 of the smaller site


def test_a_kronecker_product_has_bond_one():
    weight = torch.kron(_weight(4, 4), _weight(6, 5, seed=1))
    assert factored(weight, 1).error < 1e-12


@pytest.mark.parametrize(
    ("number", "expected"), [(4096, (64, 64)), (768, (24, 32)), (7, (1, 7)), (1, (1, 1))]
)
def test_halves_are_the_nearest_factors(number, expected):
    assert halves(number) == expected


def test_the_graph_holds_factors_folds_to_the_weight_and_stores_less_at_load():
    torch.manual_seed(0)
    x = torch.randn(3, 128)
    graph = compile_graph(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 8)), x)
    (offer,) = mpo.offers(graph, Setting(bytes_limited=True))  # the second layer is small
    assert mpo.offers(graph, Setting()) == ()  # it saves no time
    changed = mpo.apply(graph, {offer.site: offer.options[-1]}, Setting())
    verify(changed)
    folded = changed
    for _, run in PIPELINE:
        folded = run(folded)
    assert stored_bytes(folded) == stored_bytes(graph)
    assert torch.allclose(evaluate(folded, [x])[0], evaluate(changed, [x])[0], atol=1e-5)
    loaded, placed = load_generators(folded, changed, Threshold(least_saved_bytes=0))
    verify(loaded)
    assert stored_bytes(loaded) < 0.35 * stored_bytes(graph)
    assert [p.place.value for p in placed] == ["load"]
    assert torch.allclose(evaluate(loaded, [x])[0], evaluate(folded, [x])[0], atol=1e-5)


def test_a_bond_stores_less_and_a_small_or_tied_weight_is_not_offered():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(256, 128)

        def forward(self, ids):
            return nn.functional.linear(self.table(ids), self.table.weight)

    assert mpo.offers(compile_graph(Tied(), torch.tensor([[1, 2]])), Setting(bytes_limited=True)) == ()
    assert mpo.offers(compile_graph(nn.Linear(16, 16), torch.randn(2, 16)), Setting(bytes_limited=True)) == ()
    graph = compile_graph(nn.Linear(128, 256), torch.randn(2, 128))
    (offer,) = mpo.offers(graph, Setting(bytes_limited=True))
    bonds = [int(o.split(":")[1]) for o in offer.options]
    assert bonds == sorted(bonds, reverse=True) and all(stored((256, 128), b) < 256 * 128 for b in bonds)
