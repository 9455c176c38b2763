from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.search.calibration_selection import Answer, Call, select, ways
from compiler.search.selection.margin import margins
from edgewright.calibration_pool import halves_advice, selected
from edgewright.models.batches import load_batches
from edgewright.search_labels import labelled_pool
from edgewright.search_samples import halve, read_calibration
from edgewright.searching import search


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, tokens):
        return self.head(self.table(tokens).cumsum(1))


@cache
def graph(batch: int = 1, free: bool = False):
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}} if free else None
    return import_model(Net().eval(), (torch.randn(batch, 4),), dynamic_shapes=shapes)


def pool(count: int, size: int = 1, seed: int = 0) -> list[tuple[torch.Tensor]]:
    x = torch.randn(count * size, 4, generator=torch.Generator().manual_seed(seed))
    return [(part,) for part in x.split(size)]


@pytest.mark.parametrize("method", ["clusters", "el2n", "margin", "random"])
def test_what_is_chosen_are_samples_of_the_pool_that_halve_takes(method) -> None:
    batches = pool(20, 10)
    found = selected(batches, graph(), method, 60, labels=[i % 3 for i in range(200)])
    whole = torch.cat([b[0] for b in batches])
    assert (found.samples, found.pool, found.advice) == (60, 200, None)
    assert all(torch.equal(b[0], whole[[p]]) for b, p in zip(found.batches, found.places, strict=True))
    halves = halve(graph(), found.batches)
    assert halves.rows == 60 and len(halves.seen) == 30


def test_a_search_selects_by_el2n_from_labelled_batches_alone(tmp_path) -> None:
    labelled = [(*batch, torch.tensor([i % 3] * 10)) for i, batch in enumerate(pool(20, 10))]
    batches, labels = labelled_pool(labelled)
    found = selected(batches, graph(), "el2n", 60, labels=labels)
    scores = ways()["el2n"].observe(
        [Call(b, 10, answer, y[-1]) for b, y in zip(batches, labelled, strict=True)]
    )
    assert found.places == tuple(select(scores, 60, "el2n"))
    with pytest.raises(UsageError, match="labelled batch 0 is a tuple without labels"):
        search(
            Net().eval(),
            inputs=(torch.zeros(1, 4),),
            latency_budget="0.7x",
            calibration=pool(20, 10),
            calibration_select="el2n",
            out=tmp_path / "out",
        )


def answer(inputs) -> Answer:
    net = Net().eval()
    return Answer([net(*inputs).detach().double()], torch.relu(net.stem(inputs[0])).detach())


def test_the_margins_come_from_the_model() -> None:
    batches = pool(300)
    found = selected(batches, graph(), "margin", 30, seed=1)
    logits = torch.cat([evaluate(graph(), b)[0] for b in batches]).double()
    order = np.argsort(margins(logits.softmax(1).numpy()[:, None]))
    strata = [int(np.flatnonzero(order == p)[0]) // 10 for p in found.places]
    assert sorted(strata) == list(range(30))


def test_labels_go_with_their_samples() -> None:
    batches = pool(5, 40)
    logits = torch.cat([evaluate(graph(), (row[None],))[0] for b in batches for row in b[0]])
    labels = logits.argmax(1)
    labels[-1] = logits[-1].argmin()  # by far the highest score, so it is left out
    for seed in range(4):
        assert 199 not in selected(batches, graph(), "el2n", 198, seed, labels).places


def test_text_is_chosen_by_its_perplexity() -> None:
    tokens = torch.randint(9, (40, 6), generator=torch.Generator().manual_seed(0))
    tokens[20:] = tokens[:20]
    language = import_model(Language().eval(), (tokens[:1],))
    found = selected([(tokens,)], language, "perplexity", 8)
    assert len(found.places) == 8 and max(found.places) < 20


def test_a_fixed_batch_stays_whole() -> None:
    found = selected(pool(30, 4), graph(4), "margin", 40)
    assert (found.samples, found.pool, len(found.batches)) == (40, 120, 10)
    assert all(b[0].shape == (4, 4) for b in found.batches)


def test_a_free_batch_is_cut_into_samples() -> None:
    found = selected(pool(3, 20), graph(2, free=True), "clusters", 30)
    assert (found.samples, found.pool) == (30, 60)
    assert all(b[0].shape == (1, 4) for b in found.batches)


def test_a_pool_no_larger_than_what_is_asked_for_is_taken_whole_and_the_model_is_not_run(monkeypatch) -> None:
    monkeypatch.setattr("edgewright.calibration_pool.evaluate", None)
    found = selected(pool(20), graph(), "margin", 100)
    assert found.samples == 20 and found.advice is not None and "all 20 calibration samples" in found.advice
    assert selected(pool(20), graph(), "random", 10).samples == 10


def test_the_model_answers_each_call_once(monkeypatch) -> None:
    told: list[tuple[int, int]] = []
    selected(pool(12), graph(), "clusters", 5, tell=lambda *progress: told.append(progress))
    assert told == [(i, 12) for i in range(1, 13)]


@pytest.mark.parametrize(
    ("batches", "arguments", "message"),
    [
        (pool(9), ("best", 4), "no way 'best'"),
        (pool(9), ("random", 1), "two at least"),
        (pool(9), ("el2n", 4), "needs labels"),
        (pool(9), ("el2n", 4, 0, [0, 1]), "holds 9 samples and there are 2 labels"),
        (pool(9), ("perplexity", 4), "needs a model of tokens"),
        (
            [*pool(3), (torch.zeros(1, 5),)],
            ("margin", 2),
            r"batch 3 \(counted from 0\).* must be float32\[1, 4\]",
        ),
        (
            [*pool(3), (torch.zeros(1, 4).int(),)],
            ("margin", 2),
            r"batch 3 .* must be torch.float32, got torch.int32",
        ),
    ],
)
def test_what_cannot_be_selected_is_told(batches, arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        selected(batches, graph(), *arguments)


def test_halves_whose_ranges_differ_are_advised_against() -> None:
    same = halve(graph(), [(x,) for (x,) in pool(4)] * 40)
    assert halves_advice(graph(), same) is None
    odd = halve(graph(), [*pool(30), (torch.full((1, 4), 100.0),)])
    advice = halves_advice(graph(), odd)
    assert advice is not None and "differ by more than 20%" in advice and "better 500" in advice


def test_every_way_has_a_test_here_or_needs_text() -> None:
    assert set(ways()) == {"clusters", "el2n", "margin", "random", "perplexity"}


# calibration data that cannot be read


def broken(after: int):
    yield from pool(after)
    raise OSError("the disk went away")


def test_a_generator_that_raises_midway_names_the_batch_and_keeps_the_cause() -> None:
    told = r"batch 3 \(counted from 0\) could not be made: OSError at .*test_calibration_pool.py:\d+: the disk went"
    with pytest.raises(UsageError, match=told) as caught:
        read_calibration(broken(3))
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("form", ["batches", "batches()", "Broken()"])
def test_a_file_whose_generator_raises_midway_names_the_batch_and_the_line(tmp_path, form) -> None:
    (tmp_path / "data.py").write_text(
        "import torch\n"
        "def batches():\n"
        "    yield torch.zeros(1, 4)\n"
        "    raise ValueError('no more')\n"
        "class Broken:\n"
        "    def __iter__(self):\n"
        "        return batches()\n"
        f"given = {form}\n"
    )
    with pytest.raises(UsageError, match=r"batch 1 .*ValueError at .*data.py:4: no more") as caught:
        load_batches(f"{tmp_path / 'data.py'}:given")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "--calibration data.py:batches"),
        ([], "--calibration data.py:batches"),
        ([np.zeros((1, 4))] * 2, r"batch 0 \(counted from 0\) holds no tensor but ndarray"),
        (pool(1), "holds 1 sample; a search needs two at least"),
        ([*pool(2), (torch.zeros(1, 5),)], r"batch 2 \(counted from 0\).* must be float32\[1, 4\]"),
        ([*pool(2), (torch.zeros(1, 4).double(),)], "batch 2 .* must be torch.float32, got torch.float64"),
        ([*pool(2), (torch.zeros(1, 4), torch.zeros(1))], "batch 2 .* must hold 1 inputs, got 2"),
        ([*pool(2), (torch.full((1, 4), torch.nan),)], "batch 2 .* holds NaN in the input 'x'"),
    ],
)
def test_unusable_calibration_names_what_is_wrong_and_where(batches, message) -> None:
    with pytest.raises(UsageError, match=message):
        halve(graph(), read_calibration(batches))


def test_few_samples_are_advised_against() -> None:
    few, enough = halve(graph(), pool(99)), halve(graph(), pool(100))
    assert few.advice is not None and "at least 100, better 500" in few.advice
    assert enough.advice is None
