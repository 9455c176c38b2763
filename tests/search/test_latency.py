import itertools
import math

import numpy as np
import pytest

from compiler.search.latency import Observation, fit_latency
from compiler.search.space import Link, Site, Space, initial_choices

SITES = tuple(Site(f"s{i}", "precision", ("float32", "int8")) for i in range(6))
LINKS = (*(Link(i, i + 1, 1000 * (i + 1)) for i in range(5)), Link(1, 4, 7000))
SPACE = Space(SITES, LINKS)
GAINS = (-0.05, -0.1, -0.02, 0.03, -0.15, -0.08)


def truth(choice: tuple[int, ...], alpha: float, beta: float) -> float:
    crossed = [link for link in LINKS if choice[link.u] != choice[link.v]]
    return (
        1
        + sum(g for g, o in zip(GAINS, choice, strict=True) if o)
        + sum(alpha + beta * e.bytes for e in crossed)
    )


def seen(choices: list[tuple[int, ...]], alpha: float, beta: float, error: float = 1e-3) -> list[Observation]:
    return [Observation(c, truth(c, alpha, beta), error) for c in choices]


def test_recovers_the_truth_from_the_first_run_when_conversion_is_by_the_byte() -> None:
    start = [c for c in initial_choices(SPACE) if any(c)]
    model = fit_latency(SPACE, seen(start, 0.0, 3e-6))
    assert model.beta == pytest.approx(3e-6, rel=1e-3)
    assert model.alpha == pytest.approx(0, abs=1e-5)
    for choice in itertools.product((0, 1), repeat=6):
        assert model.predict(choice) == pytest.approx(truth(choice, 0.0, 3e-6), abs=1e-4)


def test_mixed_choices_tell_a_fixed_price_from_a_price_by_the_byte() -> None:
    start = [c for c in initial_choices(SPACE) if any(c)]
    mixed = [(1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1), (1, 0, 1, 0, 1, 0)]
    model = fit_latency(SPACE, seen(start + mixed, 0.01, 1e-6))
    assert model.alpha == pytest.approx(0.01, rel=0.02)
    assert model.beta == pytest.approx(1e-6, rel=0.05)


def test_prices_are_never_negative() -> None:
    # All int8 slower than the sum of its parts: a negative boundary would explain it, and is not allowed.
    start = [c for c in initial_choices(SPACE) if any(c)]
    worse = [
        Observation(o.choice, o.ratio + 0.2 * (sum(o.choice) == 6), o.error) for o in seen(start, 0.0, 0.0)
    ]
    model = fit_latency(SPACE, worse)
    assert model.alpha >= 0
    assert model.beta >= 0
    assert all(t >= 0 for b in model.boundaries() for t in b.times.values())


def test_a_precise_reading_outweighs_a_poor_one() -> None:
    space = Space(SITES[:1])
    model = fit_latency(space, [Observation((1,), 0.5, 0.001), Observation((1,), 0.9, 0.1)])
    assert model.predict((1,)) == pytest.approx(0.5, abs=1e-3)


def test_boundaries_price_both_directions_and_only_differing_formats() -> None:
    model = fit_latency(SPACE, seen([c for c in initial_choices(SPACE) if any(c)], 0.0, 3e-6))
    first = model.boundaries()[0]
    assert set(first.times) == {(0, 1), (1, 0)}
    assert first.times[0, 1] == first.times[1, 0] == pytest.approx(3e-3, rel=1e-2)


def test_a_choice_without_links_needs_no_boundary() -> None:
    space = Space(SITES[:2])
    model = fit_latency(space, [Observation((1, 0), 0.9, 0.01), Observation((0, 1), 0.8, 0.01)])
    assert model.predict((1, 1)) == pytest.approx(0.7)


def test_an_option_not_measured_alone_has_no_time() -> None:
    seen_ = [Observation(SPACE.single(0, 1), 0.9, 0.01), Observation((1,) * 6, 0.5, 0.01)]
    model = fit_latency(SPACE, seen_)
    assert math.isfinite(model.times[0][1])
    assert all(math.isinf(model.times[g][1]) for g in range(1, 6))
    assert math.isinf(model.predict((1, 1, 0, 0, 0, 0)))


def test_three_options_a_site() -> None:
    space = Space(
        (
            Site("a", "precision", ("float32", "int8", "int8_dynamic")),
            Site("b", "precision", ("float32", "int8")),
        ),
        (Link(0, 1, 10),),
    )
    assert initial_choices(space) == ((0, 0), (1, 1), (2, 0), (1, 0), (0, 1))
    rng = np.random.default_rng(0)
    model = fit_latency(
        space, [Observation(c, float(rng.random()), 0.01) for c in initial_choices(space)[1:]]
    )
    # int8 beside int8 is free, and int8_dynamic reads and writes float values
    assert set(model.boundaries()[0].times) == {(0, 1), (1, 0), (2, 1)}
    assert space.crossed((2, 0)) == () and space.crossed((2, 1)) == space.links
