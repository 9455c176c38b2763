"""Predictors of whole programs from few readings, on made devices whose law is known."""

import numpy as np
import pytest

from compiler.cost.additive import fit_additive
from compiler.cost.correction import fit_correction, kind_times
from compiler.cost.kernel import TensorSpec, kernel_call
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.process import GRID, Shape, _similarity, fit_process
from compiler.cost.total import Call
from compiler.cost.transfer import fit_transfer, programs
from compiler.records import Metric


def made(count: int, noise: float = 0.01, seed: int = 0):
    """Programs of four parts, of which a device runs only the used ones, and their times there."""
    rng = np.random.default_rng(seed)
    everything = rng.integers(0, 6, (count, 4)).astype(float)
    used = np.floor(everything * rng.uniform(0.2, 1.0, (count, 4)))
    times = (2.0 + used @ np.array([0.1, 3.0, 0.0, 1.0])) * np.exp(noise * rng.normal(size=count))
    elsewhere = (1.0 + used @ np.array([0.2, 1.0, 0.1, 0.5]))[:, None] * np.exp(
        noise * rng.normal(size=(count, 1))
    )
    return everything, used, times, elsewhere


def errors(found, truth):
    return float(np.median(np.abs(found / truth - 1)))


def test_additive_times_are_found_and_never_negative() -> None:
    _, used, times, _ = made(30, noise=0.0)
    model = fit_additive(used, times)
    assert model.fixed == pytest.approx(2.0, rel=1e-6)
    assert model.times == pytest.approx([0.1, 3.0, 0.0, 1.0], abs=1e-6)
    noisy = fit_additive(used, times * np.exp(0.5 * np.random.default_rng(1).normal(size=30)))
    assert (noisy.times >= 0).all() and noisy.fixed >= 0


def test_one_odd_reading_in_five_moves_nothing() -> None:
    _, used, times, _ = made(50, noise=0.005)
    disturbed = times.copy()
    disturbed[::5] *= 1.8
    assert errors(fit_additive(used, disturbed).predict(used), times) < 0.01


def test_units_of_parts_do_not_matter() -> None:
    _, used, times, _ = made(30)
    units = np.array([1e-6, 1.0, 1e9, 1e3])
    assert fit_additive(used * units, times).predict(used * units) == pytest.approx(
        fit_additive(used, times).predict(used)
    )


def test_points_left_out_of_a_process_are_as_if_it_were_fitted_without() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.normal(size=(12, 3)), rng.normal(size=12)
    shape = Shape(0.5, 0.8, 1.5, 0.3)
    fitted = fit_process(points, values, [shape])
    scaled = (points - points.mean(0)) / points.std(0)
    target = (values - values.mean()) / values.std()
    for i in range(12):
        rest = np.arange(12) != i
        system = _similarity(scaled[rest], scaled[rest], shape) + 0.09 * np.eye(11)
        near = _similarity(scaled[[i]], scaled[rest], shape)[0]
        mean = near @ np.linalg.solve(system, target[rest])
        assert fitted.residuals[i] == pytest.approx(values.std() * (target[i] - mean))
        own = _similarity(scaled[[i]], scaled[[i]], shape)[0, 0] + 0.09 - near @ np.linalg.solve(system, near)
        assert fitted.errors[i] == pytest.approx(values.std() * np.sqrt(own))


def test_a_process_bends_where_values_do_and_is_unsure_far_away() -> None:
    x = np.linspace(0, 6, 40)[:, None]
    fitted = fit_process(x, np.sin(x[:, 0]), GRID)
    mean, error = fitted.predict(np.array([[1.55], [40.0]]))
    assert mean[0] == pytest.approx(1.0, abs=0.05)
    assert error[1] > 3 * error[0]


@pytest.mark.parametrize("right", ["all", "used"])
def test_readings_decide_which_parts_are_executed(right: str) -> None:
    everything, used, _, _ = made(300)
    views = {"all": everything, "used": used}
    times = 2.0 + views[right] @ np.array([0.1, 3.0, 0.0, 1.0])
    given = programs(views)
    model = fit_transfer(given[np.arange(20)], times[:20])
    assert model.weights == pytest.approx({right: 1.0})
    assert errors(model.predict(given), times) < 0.01


def test_another_device_helps_where_there_are_few_readings() -> None:
    everything, _, times, elsewhere = made(300, noise=0.02)
    few = np.arange(6)
    alone = fit_transfer(programs({"all": everything})[few], times[few])
    helped = programs({"all": everything}, proxies=elsewhere)
    assert errors(fit_transfer(helped[few], times[few]).predict(helped), times) < errors(
        alone.predict(programs({"all": everything})), times
    )


def test_what_does_not_add_up_is_left_to_the_process() -> None:
    _, used, times, _ = made(400, noise=0.005)
    bent = times * (1 + 0.2 * (used[:, 1] > 1))
    given = programs({"used": used}, details=used)
    model = fit_transfer(given[np.arange(100)], bent[:100])
    plain = fit_transfer(programs({"used": used})[np.arange(100)], bent[:100])
    assert model.share > 0
    ours, sums = (
        np.abs(found / bent - 1).mean() for found in (model.predict(given), np.exp(plain.means[0](given)))
    )
    assert ours < 0.85 * sums


def test_families_are_left_out_together() -> None:
    # Each family has a factor of its own, which details give away; of another family they say nothing.
    rng = np.random.default_rng(3)
    family = np.repeat(np.arange(8), 6)
    sizes = rng.uniform(1, 2, (48, 1))
    details = np.eye(8)[family]
    times = 10 * sizes[:, 0] * np.exp(0.3 * rng.normal(size=8))[family]
    given = programs({"sum": sizes}, details)
    together = fit_transfer(given, times, [str(f) for f in family])
    apart = fit_transfer(given, times)
    assert apart.share > 0
    assert together.share == 0
    assert together.error > 2 * apart.error


def test_intervals_hold_about_what_they_promise() -> None:
    held = []
    for seed in range(8):
        everything, used, times, _ = made(220, noise=0.05, seed=seed)
        given = programs({"all": everything, "used": used})
        model = fit_transfer(given[np.arange(20)], times[:20])
        low, high = model.interval(given[np.arange(20, 220)])
        held.append(float(np.mean((low <= times[20:]) & (times[20:] <= high))))
    assert 0.8 < float(np.mean(held)) < 0.99


def test_bad_input_is_refused() -> None:
    given = programs({"all": np.ones((2, 1))})
    with pytest.raises(ValueError, match="3 positive times"):
        fit_transfer(given, np.ones(2))
    with pytest.raises(ValueError, match="different programs"):
        programs({"all": np.ones((2, 1))}, details=np.ones((3, 1)))
    with pytest.raises(ValueError, match="at least 2 points"):
        fit_process(np.ones((1, 1)), np.ones(1))


def relu(size: int):
    return kernel_call("aten.relu.default", {"self": TensorSpec((1, size), "float32", False)})


KERNELS = {
    "linear": kernel_call(
        "aten.linear.default",
        {
            "input": TensorSpec((1, 8), "float32", False),
            "weight": TensorSpec((8, 8), "float32", True),
            "bias": None,
        },
    ),
    "relu": relu(8),
}


def test_kernel_sums_are_corrected_by_whole_programs() -> None:
    table = LatencyTable(
        "made",
        "made",
        1,
        Metric.WALL,
        {KERNELS["linear"].text: Entry(100.0, 99.0, 101.0), KERNELS["relu"].text: Entry(10.0, 9.0, 11.0)},
    )
    calls = {name: Call(kernel) for name, kernel in KERNELS.items()}
    rows = []
    for linears, relus in ((1, 1), (2, 1), (3, 5), (5, 2), (4, 9), (8, 3), (2, 9)):
        times = kind_times([calls["linear"]] * linears + [calls["relu"]] * relus, table, None)
        assert times == {"linear": 100.0 * linears, "relu": 10.0 * relus}
        rows.append(
            (times, 50 + 0.9 * 100 * linears + 2.5 * 10 * relus)
        )  # a small kernel costs more in company
    correction = fit_correction(rows)
    found = correction.predict({"linear": 600.0, "relu": 40.0})
    assert found.median == pytest.approx(50 + 540 + 100, rel=0.01)
    assert found.low <= found.median <= found.high
    assert correction.predict({"linear": 600.0, "softmax": 1.0}) is None
    assert kind_times([Call(relu(9))], table, None) is None
