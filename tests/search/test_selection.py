import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from compiler.errors import UsageError
from compiler.search.calibration_selection import Answer, Call, select, ways
from compiler.search.selection.clusters import allocate, shares, whole
from compiler.search.selection.el2n import el2n, last_layer_grand
from compiler.search.selection.margin import margins
from compiler.search.selection.perplexity import counted_tokens, first_of_each, lowest, mean_surprise
from compiler.search.strata import stratified


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def call(outputs, inputs=(), features=None, labels=None, run=None) -> Call:
    n = len(outputs)
    answer = Answer((outputs,), torch.zeros(n, 1) if features is None else features)
    return Call(inputs, n, run or (lambda _: answer), labels)


# every way


def pool_facts(name: str, n: int = 200) -> np.ndarray:
    if name == "clusters":
        return random().normal(size=(n, 5))
    if name == "perplexity":
        return np.stack([random().exponential(size=n), np.full(n, 9.0), np.arange(n, dtype=float)], 1)
    return random().uniform(size=n)


def test_the_ways_are_the_files_of_the_folder() -> None:
    assert set(ways()) == {"clusters", "el2n", "margin", "perplexity", "random"}


@pytest.mark.parametrize("name", sorted(ways()))
def test_every_way_returns_so_many_distinct_samples_and_the_seed_decides(name) -> None:
    facts = pool_facts(name)
    first, again, other = (select(facts, 70, name, seed) for seed in (3, 3, 4))
    assert len(set(first.tolist())) == 70 and list(first) == sorted(first)
    assert first.tolist() == again.tolist() != other.tolist()
    assert select(facts, 200, name).tolist() == list(range(200))


@pytest.mark.parametrize("name", sorted(ways()))
def test_no_way_takes_only_the_hard_samples(name) -> None:
    facts = pool_facts(name, 400)
    score = facts if facts.ndim == 1 else facts[:, 0]
    chosen = score[select(facts, 100, name)]
    assert (chosen < np.median(score)).mean() > 0.3


def test_bad_requests_are_told() -> None:
    with pytest.raises(
        UsageError, match=r"no way 'best'.*accepted: clusters, el2n, margin, perplexity, random"
    ):
        select(np.zeros(9), 3, "best")
    with pytest.raises(UsageError, match="two at least"):
        select(np.zeros(9), 1, "random")
    facts = np.array([0.1, np.nan, 0.2, np.inf])
    with pytest.raises(UsageError, match=r"the margin of sample 1 .* nor that of 1 others"):
        select(facts, 2, "margin")


def test_every_set_of_a_random_choice_is_equally_likely() -> None:
    counts = sum(np.isin(np.arange(6), select(np.zeros(6), 2, "random", seed)) for seed in range(600))
    assert counts.sum() == 1200 and counts.min() > 150


# strata and margin


def test_every_stratum_of_the_score_has_one_sample() -> None:
    scores = random().permutation(1003).astype(float)
    ranks = np.sort(scores[stratified(scores, 100, random(1))])
    edges = np.cumsum([0, *map(len, np.array_split(np.arange(1003), 100))])
    assert all(low <= rank < high for rank, low, high in zip(ranks, edges[:-1], edges[1:], strict=True))


def test_strata_estimate_a_mean_better_than_a_random_choice() -> None:
    scores = random().beta(8, 1, size=2000)
    off = {
        name: np.std([scores[select(scores, 50, name, seed)].mean() - scores.mean() for seed in range(60)])
        for name in ("margin", "random")
    }
    assert off["margin"] < 0.2 * off["random"]


def test_equal_scores_do_not_favour_the_pools_start() -> None:
    chosen = [stratified(np.zeros(100), 10, random(seed)) for seed in range(50)]
    assert 40 < np.mean(chosen) < 60


def test_the_margin_is_the_gap_of_the_two_largest_probabilities() -> None:
    assert margins(np.array([[[0.2, 0.5, 0.3]], [[0.0, 1.0, 0.0]]])) == pytest.approx([0.2, 1.0])
    p = torch.tensor([[0.2, 0.5, 0.3]])
    given = [call(p.log() + 4), call(p), call(p.log()[:, None].expand(1, 4, 3))]
    assert ways()["margin"].observe(given) == pytest.approx([0.2] * 3, abs=1e-6)


def test_a_model_without_classes_has_no_margin() -> None:
    with pytest.raises(UsageError, match=r"one output of shape .*; the model gives \[\[4, 1\]\]"):
        ways()["margin"].observe([call(torch.zeros(4, 1))])
    two = Call((), 4, lambda _: Answer((torch.zeros(4, 3), torch.zeros(4, 3)), torch.zeros(4, 1)))
    with pytest.raises(UsageError, match=r"gives \[\[4, 3\], \[4, 3\]\]"):
        ways()["margin"].observe([two])


# EL2N


def test_el2n_is_at_most_the_root_of_two_which_a_certain_error_reaches() -> None:
    p = np.concatenate([random().dirichlet(np.full(10, 0.05), 500), np.eye(10)[:2], np.full((1, 10), 0.1)])
    scores = el2n(p, np.concatenate([random(1).integers(10, size=500), [0, 0, 0]]))
    assert scores.max() <= math.sqrt(2) + 1e-12
    assert scores[-3:] == pytest.approx([0, math.sqrt(2), 0.94868], abs=1e-5)


def test_the_last_layers_gradient_is_el2n_times_the_features_norm() -> None:
    torch.manual_seed(0)
    head = nn.Linear(6, 4).double()
    features, labels = torch.randn(5, 6).double(), torch.tensor([0, 3, 1, 2, 2])
    norms = []
    for h, y in zip(features, labels, strict=True):
        loss = nn.functional.cross_entropy(head(h)[None], y[None])
        norms.append(float(torch.autograd.grad(loss, head.weight)[0].norm()))
    logits = head(features).detach()
    scores = ways()["el2n"].observe(
        [call(logits[:3], labels=labels[:3]), call(logits[3:], labels=labels[3:])]
    )
    assert last_layer_grand(scores, features.numpy()) == pytest.approx(norms, rel=1e-12)


def test_the_highest_el2n_scores_are_left_out() -> None:
    scores = random().permutation(1000) / 1000
    assert max(scores[select(scores, 300, "el2n", seed)].max() for seed in range(9)) <= 0.99
    assert set(select(scores, 999, "el2n")) < set(range(1000))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels"),
        ([0, 1], "4 samples has 2 labels"),
        ([0, 1, 3, 1], "label 3 .* classes, 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_told(labels, message) -> None:
    own = None if labels is None else torch.tensor(labels)
    with pytest.raises(UsageError, match=message):
        ways()["el2n"].observe([call(torch.zeros(4, 3), labels=own)])


# clusters


@pytest.mark.parametrize("seed", range(6))
def test_an_allocation_has_its_sum_its_bounds_and_one_offset(seed) -> None:
    generator = random(seed)
    sizes = generator.integers(3, 60, size=25)
    total = int(generator.integers(30, sizes.sum()))
    wanted, least = total * generator.dirichlet(np.full(25, 0.4)), np.ones(25, int)
    numbers = allocate(wanted, least, sizes)
    assert numbers.sum() == pytest.approx(total, abs=1e-6)
    assert (numbers >= least).all() and (numbers <= sizes).all()
    free = (numbers > least + 1e-9) & (numbers < sizes - 1e-9)
    assert free.sum() > 1
    assert np.ptp((numbers - wanted)[free]) < 1e-9
    rounded = whole(numbers)
    assert rounded.sum() == total
    assert (rounded >= least).all() and (rounded <= sizes).all()
    assert np.abs(rounded - numbers).max() < 1


def test_an_allocation_is_what_a_solver_of_quadratic_programmes_finds() -> None:
    wanted, least, most = np.array([9.0, 0.5, 4.0, 6.5]), np.full(4, 1), np.array([5, 9, 9, 7])
    found = minimize(
        lambda n: 0.5 * ((n - wanted) ** 2).sum(),
        x0=np.full(4, 5.0),
        bounds=list(zip(least, most, strict=True)),
        constraints={"type": "eq", "fun": lambda n: n.sum() - wanted.sum()},
    )
    assert allocate(wanted, least, most) == pytest.approx(found.x, abs=1e-4)


def test_shares_grow_with_how_far_and_how_wide_a_cluster_is() -> None:
    centres = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    points = np.concatenate([centres + np.array([0, d]) for d in (0.2, -0.2)])
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = shares(points, labels, centres)
    assert found.sum() == pytest.approx(1)
    assert found[2] > found[0] > found[1]  # 8.5 away on average, 5, 4.5
    points[[0, 3], 1] *= 5
    assert shares(points, labels, centres)[0] > found[0]


def test_clusters_that_a_random_choice_would_miss_are_met() -> None:
    crowd = random().normal(size=(2000, 8)) * 0.01 + np.eye(8)[0]
    rare = np.concatenate([random(i).normal(size=(4, 8)) * 0.01 + np.eye(8)[i] for i in range(1, 8)])
    facts = np.concatenate([crowd, rare])
    chosen = select(facts, 40, "clusters")
    assert len({int((i - 2000) // 4) for i in chosen if i >= 2000}) == 7


def test_members_are_drawn_at_random_not_by_their_distance() -> None:
    directions = np.linspace(0, 1, 300)
    facts = np.stack([np.cos(directions), np.sin(directions)], 1)
    taken = sum(np.isin(np.arange(300), select(facts, 100, "clusters", seed)) for seed in range(30))
    assert (taken > 0).mean() > 0.98


def test_equal_features_and_more_clusters_than_samples_do_no_harm() -> None:
    assert len(select(np.ones((50, 3)), 10, "clusters")) == 10
    assert len(select(np.zeros((50, 3)), 10, "clusters")) == 10
    assert len(select(random().normal(size=(60, 3)), 5, "clusters")) == 5


# perplexity


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_exactly_the_asked_fraction_is_kept_with_ties_too(fraction) -> None:
    for scores in (random().uniform(size=50), np.zeros(50), random().integers(3, size=50).astype(float)):
        kept = lowest(scores, fraction)
        assert len(kept) == fraction * 50
        rest = np.delete(scores, kept)
        assert not len(kept) or not len(rest) or scores[kept].max() <= rest.min()


def test_mean_surprise_is_that_of_the_next_tokens_that_are_text() -> None:
    logits, tokens = torch.randn(2, 5, 7), torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])
    counted = torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected = [
        nn.functional.cross_entropy(logits[0, :4].double(), tokens[0, 1:]),
        nn.functional.cross_entropy(logits[1, :2].double(), tokens[1, 1:3]),
    ]
    assert mean_surprise(logits, tokens, counted) == pytest.approx(torch.stack(expected))


def test_padding_is_no_text() -> None:
    tokens = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 0, 3, 4], [7, 7, 7, 7, 7]])
    assert counted_tokens(tokens, None).sum(1).tolist() == [4, 5, 1]  # one end of text counts
    assert counted_tokens(tokens, torch.tensor([[0, 1, 1, 1, 0]] * 3)).sum(1).tolist() == [3, 3, 3]


def test_the_first_of_equal_sequences_is_kept() -> None:
    assert first_of_each(np.array([3.0, 1.0, 3.0, 2.0, 1.0])).tolist() == [0, 1, 3]


def test_short_and_repeated_and_unlikely_text_is_left_out() -> None:
    surprise, length, content = np.arange(40.0), np.full(40, 16.0), np.arange(40.0)
    length[0], content[1] = 3, content[2]  # both likely
    chosen = {
        int(i)
        for s in range(20)
        for i in select(np.stack([surprise, length, content], 1), 10, "perplexity", s)
    }
    assert chosen == {1, *range(3, 21)}  # 38 are usable, 19 kept
    with pytest.raises(UsageError, match=r"38 are distinct and at least 25%.*39 are asked for"):
        select(np.stack([surprise, length, content], 1), 39, "perplexity")
    assert len(select(np.stack([surprise, length, content], 1), 38, "perplexity")) == 38


class Language(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.causal = nn.Embedding(9, 8), nn.Linear(8, 9), causal

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        return self.head(x.cumsum(1) if self.causal else x.mean(1, keepdim=True) + x)


def answered(model: nn.Module, *inputs: torch.Tensor) -> Call:
    def run(given):
        with torch.no_grad():
            return Answer((model(given[0]),), torch.zeros(len(given[0]), 1))

    return Call(inputs, len(inputs[0]), run)


def test_facts_of_sequences_are_their_surprise_length_and_content() -> None:
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [1, 2, 3, 4]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    given = answered(Language(causal=True), tokens, mask)
    facts = ways()["perplexity"].observe([given])
    logits = given.answer.outputs[0]
    assert facts[:, 0] == pytest.approx(mean_surprise(logits, tokens, mask.bool()).numpy())
    assert facts[:, 1].tolist() == [4, 2, 4]
    assert facts[0, 2] == facts[2, 2] != facts[1, 2]


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    tokens = torch.tensor([[1, 2, 3, 4]])
    with pytest.raises(UsageError, match="does not predict the next token"):
        ways()["perplexity"].observe([answered(Language(causal=False), tokens)])


def test_a_model_without_tokens_has_no_perplexity() -> None:
    for given in (call(torch.zeros(2, 3)), call(torch.zeros(2, 3, 4), (torch.zeros(2, 3),))):
        with pytest.raises(UsageError, match="needs a model of tokens"):
            ways()["perplexity"].observe([given])
