r"""Stratified by EL2N, how wrong the model is on a labelled sample: Paul, Ganguli, Dziugaite, NeurIPS 2021.

    :math:`\mathrm{EL2N}(x, y) = \| \mathrm{softmax}(f(x)) - e_y \|_2 \;\le\; \sqrt 2`

It is the norm of the cross-entropy's gradient with respect to the logits. With h the features the last
linear layer reads, the gradient with respect to its weight is the outer product of the two, so that

    :math:`\mathrm{GraNd}_{last}(x, y) = \mathrm{EL2N}(x, y) \, \| h(x) \|_2.`

The paper averages over runs early in training and keeps the highest. A deployed model is one trained
run and calibration needs typical samples, so the score only orders the strata. The very top is left out:
there, most of all, the label is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from compiler.errors import UsageError
from compiler.search.calibration_selection import Call
from compiler.search.class_probabilities import class_probabilities
from compiler.search.strata import stratified

FACT = "EL2N score"
LABELLED = True
LEFT_OUT = 0.01  # the share of highest scores


def observe(calls: Iterable[Call]) -> NDArray[np.float64]:
    """Return each sample's EL2N; raises UsageError where there are no labels or no such classes."""
    return np.concatenate([_scores(call) for call in calls])


def select(facts: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return one sample from each of `count` strata of the score, the very top left out."""
    kept = np.argsort(facts, kind="stable")[: max(count, len(facts) - int(LEFT_OUT * len(facts)))]
    places: NDArray[np.int64] = kept[stratified(facts[kept], count, random)]
    return places


def el2n(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the scores [n] of probabilities [n, C] and labels [n]."""
    if len(labels) != len(probabilities):
        raise UsageError(f"a call of {len(probabilities)} samples has {len(labels)} labels")
    classes = probabilities.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        bad = labels[(labels < 0) | (labels >= classes)][0]
        raise UsageError(f"the label {bad} is none of the model's {classes} classes, 0 to {classes - 1}")
    error = probabilities.copy()
    error[np.arange(len(labels)), labels] -= 1
    scores: NDArray[np.float64] = np.linalg.norm(error, axis=1)
    return scores


def last_layer_grand(scores: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the gradient norms [n] of the last layer's weight, from EL2N [n] and its inputs [n, d]."""
    norms: NDArray[np.float64] = scores * np.linalg.norm(features, axis=1)
    return norms


def _scores(call: Call) -> NDArray[np.float64]:
    if call.labels is None:
        raise UsageError(
            "EL2N needs labels: give them with the samples, or select by margin, which needs none"
        )
    probabilities = class_probabilities(call)
    if probabilities.shape[1] != 1:
        raise UsageError("EL2N needs one class for each sample; select by clusters or at random")
    return el2n(probabilities[:, 0], call.labels.numpy())
