"""A few of torch's operator samples; the sweep over all of them writes docs/opinfo.md."""

import pytest
import torch

from tests.opinfo.run import DIFFERS, FAILED, PASSED, RANDOM, REFUSED, agree, judged, one, operators, page

NAMES = (
    "add",
    "nn.functional.conv2d",
    "nn.functional.layer_norm",
    "linalg.svd",
    "split",
    "cat",
    "pow",
    "sort",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_s_samples_survive_the_round_trip(name):
    _, found = judged((name, 3))
    assert found["outcome"] == PASSED, found["reason"]


def sample(name):
    return next(iter(operators()[name].sample_inputs("cpu", torch.float32)))


def test_random_operators_are_classed_out():
    assert one(torch.rand_like, sample("abs"))[0] == RANDOM


def test_a_wrong_graph_is_seen(monkeypatch):
    from tests.opinfo import run

    monkeypatch.setattr(run, "evaluate", lambda graph, inputs: [inputs[0] * 1.01])
    assert one(torch.abs, sample("abs"))[0] == DIFFERS


def test_what_is_raised_is_counted(monkeypatch):
    from tests.opinfo import run

    def breaks(graph):
        raise KeyError("lost")

    monkeypatch.setattr(run, "export_graph", breaks)
    assert one(torch.abs, sample("abs")) == (FAILED, "KeyError: 'lost'")


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        ([torch.tensor([1.0, torch.nan])], [torch.tensor([1.0, torch.nan])], True),
        ([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.1])], False),
        ([torch.tensor([1, 2])], [torch.tensor([1, 3])], False),
        ([torch.tensor([1.0])], [torch.tensor([1.0], dtype=torch.float64)], False),
        ([torch.tensor([1.0])], [torch.tensor([[1.0]])], False),
        ([1, 2], [1, 2], True),
        ([1], [1, 2], False),
    ],
)
def test_what_agrees(found, expected, equal):
    assert agree(found, expected) is equal


def test_the_page_tells_the_share_and_each_reason():
    found = {
        "abs": {"outcome": PASSED, "reason": "", "samples": 1},
        "rand": {"outcome": RANDOM, "reason": "two calls of torch's own differ", "samples": 1},
        "cauchy": {
            "outcome": REFUSED,
            "reason": "cauchy draws random numbers: node 'c', /home/a.py:64",
            "samples": 1,
        },
        "bad": {"outcome": FAILED, "reason": "KeyError: 'lost'", "samples": 1},
    }
    text = page(found)
    assert "1 of 4 operators pass (25.0%)" in text and "KeyError: 'lost'" in text
    assert "| refused | 1 | draws random numbers | cauchy |" in text and "/home" not in text
