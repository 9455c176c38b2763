"""Experts that leave a router, and one choice a row fewer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress import drop_experts, lower_top_k
from compiler.compress.decision import Setting
from compiler.compress.routers import routers, usage
from compiler.cost.counts import node_counts
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from compiler.merge import merge
from tests.models.graphs import stored_bytes
from tests.models.small import compile_graph

EXPERTS, WIDTH, HIDDEN, OUT = 6, 10, 12, 7


class Sparse(nn.Module):
    """Experts as tables, of which each row gathers k; `form` is how the tables are read."""

    def __init__(self, k=2, renormed=False, form="einsum"):
        super().__init__()
        torch.manual_seed(0)
        self.k, self.renormed, self.form = k, renormed, form
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up, self.down = (
            nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH)),
            nn.Parameter(torch.randn(EXPERTS, OUT, HIDDEN)),
        )

    def forward(self, x):
        top = self.router(x).softmax(-1).topk(self.k)
        if self.form == "einsum":
            hidden = F.relu(torch.einsum("nkhd,nd->nkh", self.up[top.indices], x))
            outputs = torch.einsum("nkoh,nkh->nko", self.down[top.indices], hidden)
        else:
            read = x[:, None].expand(-1, self.k, -1).reshape(-1, WIDTH, 1)
            hidden = F.relu(self.up[top.indices.reshape(-1)] @ read)
            outputs = (self.down[top.indices.reshape(-1)] @ hidden).reshape(-1, self.k, OUT)
        gates = top.values / top.values.sum(-1, keepdim=True) if self.renormed else top.values
        return (gates[..., None] * outputs).sum(1)


def _case(module, never=(), rows=8):
    """Return a graph and samples; the experts `never` are chosen by none of them."""
    with torch.no_grad():
        module.router.bias[list(never)] = -50.0
    generator = torch.Generator().manual_seed(1)
    samples = [[torch.randn(rows, WIDTH, generator=generator)] for _ in range(6)]
    return merge(compile_graph(module, samples[0][0]))[0], samples


@pytest.mark.parametrize(("renormed", "form"), [(False, "einsum"), (True, "rows")])
def test_an_expert_never_chosen_goes_without_a_trace(renormed, form):
    graph, samples = _case(Sparse(2, renormed, form), never=(1, 4))
    (router,) = routers(graph)
    counts, gates = usage(graph, router, samples)
    assert (counts == 0).nonzero().flatten().tolist() == [1, 4] and int(counts.sum()) == 6 * 8 * 2
    assert bool((gates[counts > 0] > 0).all())
    setting = Setting(samples)
    (offer,) = drop_experts.offers(graph, setting)
    assert offer.options == ("drop:1", "drop:2", "drop:3")
    for option in offer.options:
        changed = drop_experts.apply(graph, {offer.site: option}, setting)
        verify(changed)
        same = [torch.equal(evaluate(changed, s)[0], evaluate(graph, s)[0]) for s in samples]
        assert all(same) == (option != "drop:3")
        left = EXPERTS - int(option[-1])
        assert stored_bytes(changed) < stored_bytes(graph) * (left + 0.8) / EXPERTS


def test_rows_that_chose_another_expert_are_untouched_and_the_rest_choose_the_next():
    graph, samples = _case(Sparse())
    setting = Setting(samples)
    (router,) = routers(graph)
    counts, _ = usage(graph, router, samples)
    gone = int(counts.argmin())
    changed = drop_experts.apply(graph, {router.site: "drop:1"}, setting)
    module = Sparse()
    for (x,) in samples:
        got, own = evaluate(changed, [x])[0], evaluate(graph, [x])[0]
        chose = (module.router(x).softmax(-1).topk(2).indices == gone).any(-1)
        assert torch.equal(got[~chose], own[~chose])
        gates = module.router(x).softmax(-1)
        gates[:, gone] = -torch.inf
        top = gates.topk(2)
        hidden = F.relu(torch.einsum("nkhd,nd->nkh", module.up[top.indices], x))
        outputs = torch.einsum("nkoh,nkh->nko", module.down[top.indices], hidden)
        assert torch.allclose(got, (top.values[..., None] * outputs).sum(1), atol=1e-5)


@pytest.mark.parametrize(("k", "renormed"), [(2, False), (3, True)])
def test_one_choice_fewer_is_the_module_with_one_choice_fewer(k, renormed):
    graph, samples = _case(Sparse(k, renormed))
    setting = Setting(samples)
    (offer,) = lower_top_k.offers(graph, setting)
    assert offer.options == (f"k:{k - 1}",)
    changed = lower_top_k.apply(graph, {offer.site: offer.options[0]}, setting)
    verify(changed)
    module = Sparse(k - 1, renormed).eval()
    for (x,) in samples:
        assert torch.allclose(evaluate(changed, [x])[0], module(x), atol=1e-5)
    work = [sum(node_counts(g, n).macs for n in g.ops()) for g in (graph, changed)]
    assert work[1] < work[0] * (k - 0.5) / k


def test_the_two_compose():
    graph, samples = _case(Sparse(3), never=(2,))
    setting = Setting(samples)
    fewer = drop_experts.apply(graph, {"router": "drop:1"}, setting)
    both = lower_top_k.apply(fewer, {"router": "k:2"}, setting)
    alone = lower_top_k.apply(graph, {"router": "k:2"}, setting)
    verify(both)
    assert all(torch.equal(evaluate(both, s)[0], evaluate(alone, s)[0]) for s in samples)


def test_what_is_no_router_or_cannot_do_with_less_is_not_offered():
    class Scores(nn.Module):
        def forward(self, x):
            return x.softmax(-1).topk(2)

    class Pair(Sparse):
        """Its two choices are told apart."""

        def forward(self, x):
            top = self.router(x).softmax(-1).topk(2)
            hidden = torch.einsum("nkhd,nd->nkh", self.up[top.indices], x)
            return hidden[:, 0] - hidden[:, 1]

    x = torch.randn(8, WIDTH)
    assert routers(compile_graph(Scores(), x)) == ()
    graph, samples = _case(Pair())
    assert len(routers(graph)) == 1 and lower_top_k.offers(graph, Setting(samples)) == ()
    graph, samples = _case(Sparse(form="rows"))  # the rows are repeated ahead of the router
    assert len(routers(graph)) == 1 and lower_top_k.offers(graph, Setting(samples)) == ()
    graph, samples = _case(Sparse(1))
    assert lower_top_k.offers(graph, Setting(samples)) == ()
    assert drop_experts.offers(graph, Setting()) == ()
    with pytest.raises(UsageError, match="no option 'drop:6'"):
        drop_experts.apply(graph, {"router": "drop:6"}, Setting(samples))
