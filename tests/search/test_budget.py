import pytest

from compiler.errors import UsageError
from compiler.search.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "nanoseconds", "ratio"),
    [
        ("12ms", 12e6, None),
        ("800us", 8e5, None),
        ("800µs", 8e5, None),
        ("1.5s", 1.5e9, None),
        (" .5 ms ", 5e5, None),
        ("0.7x", None, 0.7),
        ("1x", None, 1.0),
    ],
)
def test_accepted_forms(text: str, nanoseconds: float | None, ratio: float | None) -> None:
    assert parse_budget(text) == Budget(nanoseconds, ratio)


@pytest.mark.parametrize(
    "text", ["", "12", "ms", "-3ms", "0ms", "0x", "1e3ms", "12 minutes", "0.7", "70%", "nanx"]
)
def test_bad_text_shows_the_accepted_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"12ms, 800us, 1\.5s, 3\.2Minsn, or 0\.7x"):
        parse_budget(text)


def test_a_count_of_instructions() -> None:
    budget = parse_budget("3.2Minsn")
    assert (budget, str(budget)) == (Budget(instructions=3.2e6), "3.2Minsn")
    assert budget.limit(6.4e6) == 0.5


def test_limit_is_a_multiple_of_the_float_time() -> None:
    assert parse_budget("5ms").limit(10e6) == 0.5
    assert parse_budget("0.7x").limit(10e6) == 0.7


def test_prints_as_it_is_given() -> None:
    assert str(parse_budget("0.7x")) == "0.7x"
    assert str(parse_budget("800us")) == "0.8ms"
