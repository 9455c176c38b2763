"""The fitted model on published latencies of a phone: families held out, beside the simplest rivals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shared.published_kernels import folds, published
from compiler.cost.features import features
from compiler.cost.fitted import PERCENT, Reading, fit
from compiler.cost.latency_table import Entry

PHONE = "a03s"


@pytest.fixture(scope="module")
def judged():
    """Truth, prediction and the roofline's price of each operator of the families held out."""
    learn, held = list(folds(published(), 4))[1]
    known = {r.kernel.text: Reading(r.kernel, Entry(*[r.us[PHONE]] * 3), r.network) for r in learn}
    model = fit(list(known.values()))
    factor = float(np.median([r.entry.median / features(r.kernel).prior for r in known.values()]))
    found = [(r.us[PHONE], model.predict(r.kernel), factor * features(r.kernel).prior) for r in held]
    return [row for row in found if row[1] is not None]


def test_held_out_operators_are_predicted_far_better_than_by_the_roofline(judged) -> None:
    fitted = float(np.mean([abs(p.median / t - 1) for t, p, _ in judged]))
    prior = float(np.mean([abs(r / t - 1) for t, _, r in judged]))
    assert fitted < 0.15
    assert fitted < prior / 2


def test_intervals_hold_about_what_they_promise(judged) -> None:
    covered = float(np.mean([p.low <= t <= p.high for t, p, _ in judged]))
    assert covered > PERCENT / 100 - 0.1
    assert float(np.median([p.high / p.low for _, p, _ in judged])) < 2.5
