import numpy as np
import pytest
import torch

from compiler.errors import UsageError
from compiler.search.label_gate import LabelGate, verdict


def right(n: int, wrong: int) -> np.ndarray:
    return np.arange(n) >= wrong


def logits_of(classes: list[int], count: int = 4) -> list[torch.Tensor]:
    return [torch.nn.functional.one_hot(torch.tensor([c]), count).float() for c in classes]


def gate(labels: list[int], most_drop: float = 0.5) -> LabelGate:
    return LabelGate(tuple((torch.zeros(1, 2),) for _ in range(3)), np.array(labels), most_drop)


def test_the_drop_is_the_difference_of_accuracies() -> None:
    found = gate([0, 1, 2]).judge(logits_of([0, 1, 2]), logits_of([0, 3, 2]))
    assert (found.reference, found.found, found.drop) == pytest.approx((1, 2 / 3, 1 / 3))
    assert found.low < found.drop < found.high


def test_equal_answers_on_few_samples_prove_little_and_on_many_enough() -> None:
    few, many = (verdict(right(n, n // 10), right(n, n // 10), 0.01) for n in (20, 2000))
    assert (few.drop, many.drop) == (0, 0)
    assert (few.passed, many.passed) == (False, True)
    assert "more labelled samples" in few.text and "more labelled samples" not in many.text


def test_a_drop_beyond_what_is_allowed_does_not_pass() -> None:
    found = verdict(right(1000, 50), right(1000, 150), 0.05)
    assert not found.passed and found.low > 0.05
    assert "more labelled samples" not in found.text
    assert verdict(right(1000, 50), right(1000, 150), 0.2).passed


def test_the_interval_holds_the_true_drop_about_95_times_in_100() -> None:
    generator, n, held = np.random.default_rng(0), 300, 0
    for _ in range(1000):
        cell = generator.choice(4, size=n, p=[0.86, 0.06, 0.02, 0.06])  # both, lost, won, neither
        found = verdict((cell == 0) | (cell == 1), (cell == 0) | (cell == 2), 0.1)
        held += found.low <= 0.04 <= found.high
    assert 930 <= held <= 975


def test_pairs_matter_not_only_the_two_accuracies() -> None:
    same = verdict(right(200, 20), right(200, 20), 1)
    apart = verdict(right(200, 20), right(200, 20)[::-1], 1)
    assert same.drop == apart.drop == 0
    assert apart.high > 2 * same.high


@pytest.mark.parametrize(
    ("labels", "most", "message"),
    [
        ([0, 1], 0.1, "3 labelled samples and 2 labels"),
        ([0, 1, 2, 3], 0.1, "3 labelled samples and 4 labels"),
        ([0, 1, 2], 1.5, "between 0 and 1"),
    ],
)
def test_labels_that_do_not_fit_are_told(labels, most, message) -> None:
    with pytest.raises(UsageError, match=message):
        gate(labels, most)


def test_no_labelled_sample_is_told() -> None:
    with pytest.raises(UsageError, match="no sample"):
        LabelGate((), np.zeros(0, np.int64), 0.1)


def test_labels_beyond_the_classes_and_outputs_without_classes_are_told() -> None:
    with pytest.raises(UsageError, match="from 0 to 4; the model has the classes 0 to 3"):
        gate([0, 1, 4]).judge(logits_of([0, 1, 2]), logits_of([0, 1, 2]))
    with pytest.raises(UsageError, match=r"the model gives \[1, 2, 3\]"):
        gate([0, 1, 2]).judge([torch.zeros(1, 2, 3)] * 3, [torch.zeros(1, 2, 3)] * 3)
