"""The fitted model on times whose law is known: errors, intervals, what is left out, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from compiler.cost.features import features, kind
from compiler.cost.fitted import PERCENT, Reading, fit
from compiler.cost.fusion import parse_composite
from compiler.cost.kernel import TensorSpec, kernel_call, kernel_graph
from compiler.cost.latency_table import Entry
from compiler.cost.program import WholeProgram
from compiler.cost.quantized import Quantized

SEED = 5


def spec(*shape, constant=False):
    return TensorSpec(shape, "float32", constant)


def conv(channels: int, out: int, size: int, taps: int = 3, groups: int = 1):
    weight = spec(out, channels // groups, taps, taps, constant=True)
    operands = {"input": spec(1, channels, size, size), "weight": weight, "groups": groups}
    return kernel_call("aten.conv2d.default", {**operands, "padding": [taps // 2] * 2})


def relu(*shape):
    return kernel_call("aten.relu.default", {"self": spec(*shape)})


def law(kernel, speed=1.0) -> float:
    """A machine: arithmetic and traffic at their rates, and a launch; depthwise and few channels are slow."""
    seen = features(kernel)
    macs, moved = (math.expm1(v) for v in (seen.values[1], max(seen.values[2], seen.values[4])))
    few = 1 + 30 / math.exp(seen.values[6])
    rate = (1.0 if "depthwise" in seen.kind else 12.0) / few
    return speed * (macs / rate + moved / 4 + 500)


def entry(ns: float, width: float = 0.01) -> Entry:
    return Entry(ns, ns * (1 - width), ns * (1 + width))


def drawn(count: int, seed: int = SEED):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        channels, out = (int(8 * draw.integers(1, 16)) for _ in range(2))
        size, taps = int(draw.choice([7, 14, 28, 56])), int(draw.choice([1, 3, 5]))
        yield (
            conv(channels, channels, size, 3, channels)
            if draw.random() < 0.3
            else conv(channels, out, size, taps)
        )
        yield relu(1, channels, size, size)


def read(kernels, noise=0.0, speed=1.0, seed=SEED):
    draw = np.random.default_rng(seed)
    return [Reading(k, entry(law(k, speed) * math.exp(noise * draw.standard_normal()))) for k in kernels]


@pytest.fixture(scope="module")
def model():
    return fit(read(drawn(60), noise=0.05))


@pytest.fixture(scope="module")
def unseen():
    return list({k.text: k for k in drawn(60, seed=99)}.values())


def test_kernels_not_seen_are_predicted_within_a_few_percent(model, unseen) -> None:
    errors = [abs(model.predict(k).median / law(k) - 1) for k in unseen]
    assert np.median(errors) < 0.08
    assert np.mean(errors) < 0.15


def test_intervals_hold_what_they_promise_and_no_more_than_they_must(model, unseen) -> None:
    """Too narrow fails the first, infinitely wide the second."""
    truth = dict(zip(unseen, read(unseen, noise=0.05, seed=3), strict=True))
    found = [(model.predict(k), truth[k].entry.median) for k in unseen]
    covered = np.mean([p.low <= t <= p.high for p, t in found])
    assert covered >= PERCENT / 100 - 0.08
    assert np.median([p.high / p.low for p, _ in found]) < 2.0


def test_a_kernel_far_from_all_readings_has_a_wide_interval(model) -> None:
    near, far = model.predict(conv(64, 64, 28)), model.predict(conv(2048, 4096, 112, 7))
    assert far.high / far.low > 2 * near.high / near.low


def test_a_kind_that_was_never_measured_has_no_price(model) -> None:
    assert model.predict(kernel_call("aten.gelu.default", {"self": spec(1, 8)})) is None
    assert model.predict(Quantized(conv(8, 8, 7), "int8")) is None  # another kind than in float
    assert model.predict(WholeProgram(kernel_graph(relu(1, 8)))) is None
    assert model.predict(conv(8, 8, 7)).like > 5


def test_leaving_out_without_a_second_fit_is_leaving_out() -> None:
    """The identity that residuals and intervals rest on, against fits that never saw the group."""
    readings = [replace(r, group=f"net {i % 4}") for i, r in enumerate(read(drawn(15), noise=0.1))]
    whole = fit(readings)
    for left in range(4):
        rest = fit([r for r in readings if r.group != f"net {left}"])
        # The same shape and scaling: only then is it the same model.
        kept = [i for i in range(len(readings)) if i % 4 != left]
        system = np.linalg.inv(np.linalg.inv(whole.inverse)[np.ix_(kept, kept)])
        column = whole.group[
            left
        ]  # what is taken off the weights is what the group had, and moves the others'
        less = whole.weights - whole.without[:, column]
        target = np.array([math.log(r.entry.median / features(r.kernel).prior) for r in readings])
        assert less[kept] == pytest.approx(system @ target[kept], abs=1e-8)
        assert less[left::4] == pytest.approx(0, abs=1e-8)
        for i in range(left, len(readings), 4):
            seen = features(readings[i].kernel)
            said = float(whole._near([seen])[0][kept] @ system @ target[kept])
            assert target[i] - said == pytest.approx(whole.residuals[i], abs=1e-8)
        assert len(rest.kinds) == len(kept)


def test_few_readings_of_another_device_move_a_model_there(model, unseen) -> None:
    """Ten kernels of a machine three times slower, at other rates: far better than without the old model."""
    few = read(list(drawn(5, seed=21)), speed=3.0)
    moved, alone = fit(few, other=model), fit(few)

    def error(fitted) -> float:
        found = [(fitted.predict(k), 3 * law(k)) for k in unseen]
        return float(np.median([abs(p.median / t - 1) for p, t in found if p is not None]))

    assert error(moved) < 0.12
    assert error(moved) < 0.75 * error(alone)


def test_two_readings_are_the_least(model) -> None:
    with pytest.raises(ValueError, match="at least 2 measured kernels, there are 1"):
        fit(read([relu(1, 8)]))
    assert fit(read([relu(1, 8), relu(1, 64)])).predict(relu(1, 16)).like == 2


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (conv(8, 16, 7, 1), "conv2d pointwise"),
        (conv(8, 16, 7), "conv2d"),
        (conv(8, 8, 7, 3, 8), "conv2d depthwise"),
        (conv(8, 8, 7, 3, 2), "conv2d grouped"),
        (Quantized(conv(8, 8, 7), "int8"), "int8 conv2d"),
        (parse_composite(f"{conv(8, 8, 7).text} of x; {relu(1, 8, 7, 7).text} of %0"), "conv2d + relu"),
    ],
)
def test_kinds(kernel, expected) -> None:
    assert kind(kernel) == expected
