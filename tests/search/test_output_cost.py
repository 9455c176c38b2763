import math

import numpy as np
import pytest
import torch

from compiler.errors import NumericError, UsageError
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.search.output_cost import (
    CostKind,
    call_terms,
    cost_kind,
    estimate,
    floating,
    output_names,
    sample_costs,
    total_costs,
)


def logits(seed: int, n: int = 64, c: int = 10) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def test_kl_equals_its_definition_in_nats() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert sample_costs([(p.log(),)], [(q.log() + 3,)], CostKind.KL) == pytest.approx(expected)


def test_kl_is_zero_on_equal_outputs_and_grows_as_the_square_near_zero() -> None:
    x, noise = logits(0).double(), logits(1).double()
    at = [sample_costs([(x,)], [(x + e * noise,)], CostKind.KL).mean() for e in (0.0, 1e-2, 2e-2)]
    assert at[0] == 0
    assert at[2] / at[1] == pytest.approx(4, rel=0.05)


def test_kl_is_taken_from_the_reference_to_the_option() -> None:
    p, q = logits(0), logits(1)
    there = sample_costs([(p,)], [(q,)], CostKind.KL)
    assert not np.allclose(there, sample_costs([(q,)], [(p,)], CostKind.KL))
    expected = torch.nn.functional.kl_div(
        q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    assert there == pytest.approx(expected.numpy(), rel=1e-5)


def test_one_cost_for_each_sample() -> None:
    x = logits(0, n=6)
    assert len(sample_costs([(x,), (x,)], [(x,), (x,)], CostKind.KL)) == 12
    image = torch.randn(4, 3, 5, 5)
    assert len(sample_costs([(image,)], [(image,)], CostKind.NMSE, batch=4)) == 4
    assert len(sample_costs([(image,)], [(image,)], CostKind.NMSE)) == 1


def test_normalised_mse_is_a_ratio_of_sums_added_over_outputs() -> None:
    a, b = torch.full((2, 3), 2.0), torch.full((2, 1, 2, 2), 5.0)
    costs = sample_costs([(a, b)], [(a + 0.2, b - 1.0)], CostKind.NMSE, batch=2)
    assert costs == pytest.approx([0.01 + 0.04] * 2)
    # scale free
    scaled = sample_costs([(a * 7, b * 9)], [((a + 0.2) * 7, (b - 1.0) * 9)], CostKind.NMSE, batch=2)
    assert scaled == pytest.approx(costs)


def test_a_silent_output_does_not_divide_by_zero() -> None:
    zero = torch.zeros(2, 3)
    assert sample_costs([(zero,)], [(zero,)], CostKind.NMSE, batch=2) == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ([(4, 10)], CostKind.KL),
        ([(4, 1)], CostKind.NMSE),
        ([(4, 10, 3)], CostKind.NMSE),
        ([(4, 10), (4, 10)], CostKind.NMSE),
    ],
)
def test_kind_follows_the_outputs(shapes: list[tuple[int, ...]], kind: CostKind) -> None:
    editor = Editor()
    floats = [editor.input(f"x{i}", TensorType(shape, torch.float32)) for i, shape in enumerate(shapes)]
    labels = editor.input("labels", TensorType((4, 7), torch.int64))  # carries no cost, so it does not count
    editor.output([*floats, labels, 3])
    assert cost_kind(editor.finish()) is kind


def test_integer_and_literal_outputs_carry_no_cost() -> None:
    assert len(floating([torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), 3, None])) == 1


def test_bootstrap_error_is_the_standard_error_of_the_mean() -> None:
    costs = np.random.default_rng(0).exponential(1.0, 400)
    found = estimate(costs)
    assert found.mean == pytest.approx(costs.mean())
    assert found.error == pytest.approx(costs.std() / 20, rel=0.1)
    assert found.low < found.mean < found.high
    assert found == estimate(costs)  # the same seed, the same interval
    assert found.samples == 400


def test_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        estimate(np.zeros(0))


class Tokens(torch.nn.Module):
    def __init__(self, rows: int = 11, out: int = 11) -> None:
        super().__init__()
        self.table, self.head = torch.nn.Embedding(rows, 8), torch.nn.Linear(8, out)

    def forward(self, x):
        return self.head(self.table(x))


def heads(*last):
    """A graph whose outputs are linear layers, each behind one of the functions."""

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 5)

        def forward(self, x):
            return tuple(f(self.layer(x)) for f in last)

    return import_model(Heads().eval(), (torch.zeros(2, 4),))


def test_logits_of_embedded_tokens_are_distributions_and_other_features_of_tokens_are_not() -> None:
    x = torch.zeros(1, 6, dtype=torch.int64)
    assert cost_kind(import_model(Tokens().eval(), (x,))) is CostKind.KL
    assert cost_kind(import_model(Tokens(11, 13).eval(), (x,))) is CostKind.NMSE


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ([torch.tanh], CostKind.NMSE),
        ([lambda y: torch.sigmoid(y).reshape(2, 5)], CostKind.NMSE),
        ([lambda y: torch.nn.functional.layer_norm(y, (5,))], CostKind.NMSE),
        ([torch.relu], CostKind.KL),
        ([lambda y: y.softmax(1), lambda y: y.log_softmax(-1)], CostKind.KL),
        ([lambda y: y.softmax(0), lambda y: y.log_softmax(-1)], CostKind.NMSE),
        ([lambda y: y.softmax(1), lambda y: y], CostKind.NMSE),
    ],
)
def test_the_last_operation_tells_what_a_row_is(last, kind) -> None:
    assert cost_kind(heads(*last)) is kind


def test_what_the_user_asks_for_is_taken() -> None:
    graph = heads(torch.tanh, torch.relu)
    assert [cost_kind(graph, word) for word in ("kl", "mse", "js")] == [
        CostKind.KL,
        CostKind.NMSE,
        CostKind.JS,
    ]
    with pytest.raises(UsageError, match="no cost 'l2'; accepted: kl, js, mse"):
        cost_kind(graph, "l2")
    with pytest.raises(UsageError, match=r"output 1 has the type float32\[2\].*--cost mse"):
        cost_kind(heads(torch.relu, lambda y: y.sum(1)), "kl")
    with pytest.raises(UsageError, match="no floating output"):
        cost_kind(heads(lambda y: y.argmax(1)))


def test_a_sequence_is_one_sample_whose_cost_is_the_mean_over_its_tokens() -> None:
    x, y = logits(0, n=2 * 7).reshape(2, 7, 10), logits(1, n=2 * 7).reshape(2, 7, 10)
    each = sample_costs([(x.reshape(14, 10),)], [(y.reshape(14, 10),)], CostKind.KL)
    assert sample_costs([(x,)], [(y,)], CostKind.KL) == pytest.approx(each.reshape(2, 7).mean(1))
    assert estimate(sample_costs([(x,)], [(y,)], CostKind.KL)).samples == 2


def test_the_classes_of_an_image_of_logits_are_its_channels() -> None:
    x, y = (torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    rows = [t.permute(0, 2, 3, 1).reshape(-1, 5) for t in (x, y)]
    each = sample_costs([(rows[0],)], [(rows[1],)], CostKind.KL)
    assert sample_costs([(x,)], [(y,)], CostKind.KL) == pytest.approx(each.reshape(2, 9).mean(1))


def test_the_divergence_of_several_outputs_is_that_of_their_joint_distribution() -> None:
    a, b, c, d = (logits(s, n=3, c=4) for s in range(4))
    joint = [
        (x.log_softmax(1)[:, :, None] + y.log_softmax(1)[:, None]).reshape(3, 16) for x, y in ((a, b), (c, d))
    ]
    whole = sample_costs([(joint[0],)], [(joint[1],)], CostKind.KL)
    assert sample_costs([(a, b)], [(c, d)], CostKind.KL) == pytest.approx(whole, rel=1e-5)


def test_calls_added_one_by_one_give_the_same_costs() -> None:
    calls = [((logits(s, n=3),), (logits(s + 9, n=3),)) for s in range(4)]
    for kind in CostKind:
        terms = [call_terms(r, f, kind, 3) for r, f in calls]
        assert total_costs(terms) == pytest.approx(sample_costs(*zip(*calls, strict=True), kind, 3))


@pytest.mark.parametrize("kind", list(CostKind))
@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
@pytest.mark.parametrize(("place", "who"), [(0, "the reference"), (1, "the variant")])
def test_outputs_that_are_not_finite_name_the_output_and_the_sample(kind, value, word, place, who) -> None:
    calls = [[(logits(0, n=4), logits(1, n=4)) for _ in range(3)] for _ in range(2)]
    spoilt = logits(1, n=4)
    spoilt[2:, 5] = value
    calls[place][1] = (logits(0, n=4), spoilt)
    told = f"{who} gives {word}.* at scores for calibration sample 6 "
    with pytest.raises(NumericError, match=told):
        sample_costs(calls[0], calls[1], kind, 4, ("boxes", "scores"))


def test_outputs_are_named_by_their_place_among_all_results() -> None:
    assert output_names(heads(lambda y: y.argmax(1), torch.relu)) == ("output 1",)
