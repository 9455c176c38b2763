"""docs/merges.md lists what this folder states; the generator shows what does not hold as such."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.methods.judge import sample, scramble
from tests.methods.method import Built, Dearer, Merge, Refusal
from tests.methods.table import PAGE, operations, power_of_ten, priced, refused, row
from tests.methods.test_methods import methods


def _pair() -> Built:
    return scramble(nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5))), (sample(3, 7),)


def _low_rank() -> Built:
    return scramble(nn.Sequential(nn.Linear(96, 3), nn.Linear(3, 96))), (sample(1024, 96),)


def _random() -> Built:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x)

    return Noise(), (sample(3, 7),)


def test_every_method_and_every_case_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for module in methods():
        name = f"`tests/methods/{module.__name__.rsplit('.', 1)[1]}.py`"
        assert name in page
        _, _, rest = page.partition(name)
        section = rest.partition("\n## ")[0]
        lines = section.splitlines()
        for case in getattr(module, "MERGES", ()):
            assert any(line.startswith(f"| {case.name} |") for line in lines), case.name
        for case in (*getattr(module, "REFUSALS", ()), *getattr(module, "DEARER", ())):
            assert any(line.startswith(f"- {case.name}: ") for line in lines), case.name


def test_a_case_that_holds_shows_its_operations() -> None:
    cells = [c.strip() for c in row(Merge("pair", _pair, {"linear": 1})).split("|")[1:-1]]
    assert cells == ["pair", "2 linear", "linear", "real", "1e-14"]


@pytest.mark.parametrize("settings", [{}, {"constants": 1}, {"unknown": 1}])
def test_a_case_that_does_not_hold_is_shown_as_such(settings: dict[str, int]) -> None:
    after = {"linear": 1} if settings else {"linear": 2}
    assert "does not merge yet" in row(Merge("pair", _pair, after, settings=settings))


def test_a_refusal_is_given_in_the_words_of_the_engine() -> None:
    text = refused(Refusal("noise", _random, {}, "random"))
    assert text.startswith("randn_like draws random numbers in eval")
    assert "/" not in text  # the place in the source is no matter of the page
    assert refused(Refusal("noise", _random, {}, "un-shares")) == "is not refused yet"
    assert refused(Refusal("pair", _pair, {"linear": 2}, "un-shares")) == "is not refused yet"


def test_a_kept_form_is_given_with_its_price() -> None:
    assert "times" in priced(Dearer("low rank", _low_rank, {"linear": 2}))
    assert priced(Dearer("pair", _pair, {"linear": 2})) == "the price does not refuse yet"


@pytest.mark.parametrize(
    ("error", "text"), [(0.0, "1e-14"), (3e-16, "1e-14"), (3e-12, "1e-11"), (1e-10, "1e-10")]
)
def test_errors_are_rounded_up(error: float, text: str) -> None:
    assert power_of_ten(error) == text


def test_operations_are_counted_in_words() -> None:
    assert operations({"conv2d": 2, "add": 1, "linear": 0}) == "2 conv2d, add"
    assert operations({}) == "none"
