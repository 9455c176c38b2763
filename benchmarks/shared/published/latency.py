"""Predictors of whole programs from k measurements of a published table, ours beside simpler ones.

Every predictor sees the same k programs, drawn by seed, and is judged on the others. Figures are means
over seeds: Spearman's rank correlation, and the shares predicted within 5% and within 10%.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr
from shared.published.tables import Task
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.preprocessing import StandardScaler

from compiler.cost.transfer import fit_transfer

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Predict = Callable[[Task, Rows, Rows], Floats]

JUDGED = 3000  # programs at most
GROUPED = 5  # times as many draws where few families are held out


@dataclass(frozen=True)
class Figures:
    """One predictor on one task from k measurements."""

    table: str
    device: str
    method: str
    count: int
    spearman: float
    within_5_percent: float
    within_10_percent: float
    held: float | None  # by the 90% interval


def judge(task: Task, counts: Sequence[int], seeds: int) -> list[Figures]:
    """Return the figures of every predictor on a task."""
    found = []
    runs = seeds * GROUPED if task.groups else seeds
    for count in counts:
        draws = [_draw(task, count, seed) for seed in range(runs)]
        draws = [(learn, held) for learn, held in draws if len(learn) == count]
        if not draws:
            continue
        found += [_ours(task, name, count, draws) for name in task.given]
        for name, predict in _rivals(task).items():
            rows = [_row(predict(task, learn, held), task.times[held]) for learn, held in draws]
            found.append(Figures(task.table, task.device, name, count, *np.mean(rows, 0), None))
    if task.twins:
        first, second = np.array(task.twins).T
        again = _row(task.times[first], task.times[second])
        found.append(Figures(task.table, task.device, "measured again", counts[0], *again, None))
    return found


def _draw(task: Task, count: int, seed: int) -> tuple[Rows, Rows]:
    """Return programs to learn from and to be judged by; no group is in both."""
    order = np.random.default_rng(seed).permutation(len(task.times))
    if not task.groups:
        return order[:count], order[count : count + JUDGED]
    groups = np.array(task.groups)
    names = list(dict.fromkeys(groups[order]))
    known = np.isin(groups, names[: len(names) // 2])
    return order[known[order]][:count], order[~known[order]]


def _row(found: Floats, truth: Floats) -> tuple[float, float, float]:
    errors = np.abs(found / truth - 1)
    rank = spearmanr(found, truth)[0] if np.ptp(found) > 0 else 0.0
    return float(rank), float((errors <= 0.05).mean()), float((errors <= 0.1).mean())


def _ours(task: Task, name: str, count: int, draws: Iterable[tuple[Rows, Rows]]) -> Figures:
    rows, held_by = [], []
    for learn, held in draws:
        given = task.given[name]
        model = fit_transfer(given[learn], task.times[learn], [task.groups[i] for i in learn if task.groups])
        low, high = model.interval(given[held])
        rows.append(_row(model.predict(given[held]), task.times[held]))
        held_by.append(float(((low <= task.times[held]) & (task.times[held] <= high)).mean()))
    return Figures(task.table, task.device, name, count, *np.mean(rows, 0), float(np.mean(held_by)))


def _rivals(task: Task) -> dict[str, Predict]:
    found: dict[str, Predict] = {name: _table(amounts) for name, amounts in task.tables.items()}
    found |= {"FLOPs-linear": _table(task.work[:, None]), "random forest": _forest, "GP": _process}
    if task.elsewhere is not None:
        found["ridge of devices"] = _ridge
    if task.table == "chipsets":
        found.pop("FLOPs-linear")
    return found


def _table(amounts: Floats) -> Predict:
    """Return non-negative least squares of relative errors, with a constant."""

    def predict(task: Task, learn: Rows, held: Rows) -> Floats:
        scale = np.maximum(amounts.max(0), 1e-12)
        rows = np.concatenate([np.ones((len(amounts), 1)), amounts / scale], 1)
        weights = nnls(rows[learn] / task.times[learn, None], np.ones(len(learn)))[0]
        return np.maximum(rows[held] @ weights, 1e-9)

    return predict


def _forest(task: Task, learn: Rows, held: Rows) -> Floats:
    forest = RandomForestRegressor(100, random_state=0).fit(task.plain[learn], task.times[learn])
    return np.asarray(forest.predict(task.plain[held]))


def _process(task: Task, learn: Rows, held: Rows) -> Floats:
    scaler = StandardScaler().fit(task.plain[learn])
    kernel = ConstantKernel(1.0) * Matern(3.0, (0.3, 100), nu=1.5) + WhiteKernel(0.05, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(scaler.transform(task.plain[learn]), np.log(task.times[learn]))
    return np.exp(np.asarray(process.predict(scaler.transform(task.plain[held]))))


def _ridge(task: Task, learn: Rows, held: Rows) -> Floats:
    """Return the ridge regression of the logarithm on those of the other devices."""
    assert task.elsewhere is not None
    logs = np.log(task.elsewhere)
    centre, middle = logs[learn].mean(0), np.log(task.times[learn]).mean()
    near = logs[learn] - centre
    slopes = np.linalg.solve(
        near.T @ near + 0.1 * np.eye(near.shape[1]), near.T @ (np.log(task.times[learn]) - middle)
    )
    return np.exp(middle + (logs[held] - centre) @ slopes)
