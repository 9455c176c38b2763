"""Healing on the digits net: the same operations, other constants, nearer to the original on unseen images."""

import pytest
import torch

from compiler.compress.bias_correction import correct_biases
from compiler.compress.heal import HEALERS, bias_tuning, corrected, distill, heal, mask_lora, refit, soup
from compiler.compress.heal.gradient import Differentiable
from compiler.compress.heal.mask_lora import MaskLora, ScaleLora
from compiler.compress.heal.objective import cost, distance, halves, reference
from compiler.compress.heal.train import Schedule, Whole, train, with_constants
from compiler.compress.heal.trainable import biases, weights
from compiler.compress.layerwise import quantised
from compiler.compress.weights import codes_of, weighted
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from tests.models.digits import digits
from tests.models.quantised import few_bits, int8, rounded_weights


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def parts(data):
    return halves(data.calls())


@pytest.fixture(scope="module")
def two_bits(data):
    return rounded_weights(data.graph, 2)


@pytest.fixture(scope="module")
def pruned(data):
    """The smaller half of each inner weight is zero."""
    changed = {}
    for name in weights(data.graph)[1:-1]:
        weight = data.graph.constants[name].tensor
        changed[name] = weight * (weight.abs() > weight.abs().median())
    return with_constants(data.graph, changed)


def held_out(graph, data):
    return cost(graph, reference(data.graph, data.tests()), data.tests())


def test_the_net_is_trained(data):
    logits = torch.cat([evaluate(data.graph, call)[0] for call in data.tests()])
    assert float((logits.argmax(1) == data.labels[: len(logits)]).double().mean()) > 0.94


def test_analytic_bias_correction_lowers_the_held_out_divergence_at_two_bits(data, two_bits):
    before, after = (
        held_out(two_bits, data),
        held_out(correct_biases(two_bits, data.graph, data.calls()), data),
    )
    assert after < 0.85 * before


def test_bias_tuning_lowers_it_further_and_changes_biases_alone(data, two_bits, parts):
    start = correct_biases(two_bits, data.graph, parts.fit)
    done = bias_tuning.heal(start, data.graph, parts, 0)
    assert held_out(done, data) < 0.8 * held_out(start, data)
    changed = {n for n, c in done.constants.items() if c != start.constants[n]}
    assert changed and changed <= set(biases(start)) and not changed & set(weights(start))


def test_tuning_is_refused_with_too_few_images(data, two_bits):
    few = halves(data.calls(300))
    for healer in (bias_tuning, distill, soup):
        assert "400 calibration images or more, got 300" in healer.refusal(two_bits, data.graph, few)
        assert healer.refusal(two_bits, data.graph, halves(data.calls(400))) is None


@pytest.mark.parametrize("form", [MaskLora, ScaleLora])
def test_a_low_rank_form_is_the_identity_at_first_keeps_the_zeros_and_is_what_it_multiplies_out_to(form):
    weight = drawn(12, 9, 3) * (drawn(12, 9, 3, seed=1) > 0)
    made = form(weight, 4, torch.Generator().manual_seed(0)) if form is MaskLora else form(weight, 4)
    assert torch.allclose(made.tensor(), weight, rtol=1e-6, atol=0)
    for parameter in made.parameters():
        parameter.data += 0.3 * drawn(*parameter.shape, seed=2)
    moved = made.tensor().detach()
    assert torch.equal(moved == 0, weight == 0) and float((moved - weight).abs().max()) > 0.1
    a, b = made.parameters()
    low = (b @ a).reshape(weight.shape)
    wanted = weight + 2.0 * low * (weight != 0) if form is MaskLora else weight * low
    assert torch.allclose(moved, wanted)


def test_mask_lora_heals_a_pruned_graph_and_keeps_its_pattern(data, pruned, parts):
    done = mask_lora.heal(pruned, data.graph, parts, 0)
    assert held_out(done, data) < 0.7 * held_out(pruned, data)
    for name in mask_lora.sparse(pruned):
        before, after = pruned.constants[name].tensor, done.constants[name].tensor
        assert torch.equal(after == 0, before == 0) and not torch.equal(after, before)


def test_distillation_keeps_zeros(data, pruned, parts):
    done = distill.heal(pruned, data.graph, parts, 0)
    assert held_out(done, data) < 0.5 * held_out(pruned, data)
    for name in mask_lora.sparse(pruned):
        assert torch.equal(done.constants[name].tensor == 0, pruned.constants[name].tensor == 0)


def test_a_soup_is_never_above_the_best_run(data, pruned, parts, monkeypatch):
    runs, own = [pruned], distill.heal

    def remembered(*args):
        runs.append(own(*args))
        return runs[-1]

    monkeypatch.setattr(distill, "SCHEDULE", Schedule(steps=30, checks=1))
    monkeypatch.setattr(distill, "heal", remembered)
    mixed = soup.heal(pruned, data.graph, parts, 0)
    wanted = reference(data.graph, parts.judge)
    costs = [cost(g, wanted, parts.judge) for g in runs]
    assert len(set(costs)) == 1 + soup.RUNS
    assert cost(mixed, wanted, parts.judge) <= min(costs)


def narrow(graph):
    """The graph with half of each block's hidden units silent, their readers not told."""
    changed = {}
    for node in graph.ops():
        if node.origin.endswith(".u"):
            for key in ("weight", "bias"):
                tensor = graph.constant(node.operand(key)).clone()
                tensor[::2] = 0
                changed[node.operand(key).node] = tensor
    return with_constants(graph, changed)


def test_a_refit_brings_back_what_silent_inputs_took(data, parts):
    graph = narrow(data.graph)
    done = refit.heal(graph, data.graph, parts, 0)
    assert held_out(done, data) < 0.5 * held_out(graph, data)
    assert refit.heal(data.graph, data.graph, parts, 0) == data.graph


@pytest.fixture(scope="module")
def codes(data):
    return few_bits(int8(data.graph, data.calls()), 2)


def test_gradients_pass_through_rounding_and_stop_where_it_clips(data, codes):
    names = biases(codes)
    assert quantised(codes) and len(names) == 17
    run = Differentiable(codes, names)
    given = {n: codes.constants[n].tensor.clone().requires_grad_() for n in names}
    call = data.calls()[0]
    found = run(call, given)
    assert torch.equal(found[0].detach(), evaluate(codes, call)[0])
    distance(reference(data.graph, [call]), [found]).backward()
    assert all(float(t.grad.abs().max()) > 0 for t in given.values())
    given[names[0]].data.fill_(1e4)  # far beyond the range of what reads it
    given[names[0]].grad = None
    run(call, given)[0].sum().backward()
    assert float(given[names[0]].grad.abs().max()) == 0


def test_a_quantised_graph_is_healed_by_its_biases_alone(data, codes, monkeypatch):
    monkeypatch.setattr(bias_tuning, "SCHEDULE", Schedule(steps=60, checks=3))
    done = heal(codes, data.graph, data.calls(), healers=HEALERS[2:])
    by = {step.name: step for step in done.steps}
    assert by["bias_correction"].kept and by["bias_tuning"].kept
    assert all("stay" in by[name].refused for name in ("refit", "distill", "soup"))
    assert held_out(done.graph, data) < 0.6 * held_out(codes, data)
    for node in codes.ops():
        if weighted(codes, node):
            own, other = codes_of(codes, node), codes_of(done.graph, done.graph.node(node.name))
            assert torch.equal(own.codes, other.codes) and torch.equal(own.scale, other.scale)
    assert [(n.name, n.op) for n in done.graph.ops()] == [(n.name, n.op) for n in codes.ops()]


def test_the_codes_of_a_quantised_graph_are_fitted_and_its_operations_stay(data, codes):
    done = heal(codes, data.graph, data.calls(), healers=HEALERS[:2])
    assert [step.name for step in done.steps] == ["adaquant", "para_norm"]
    assert done.steps[0].kept and held_out(done.graph, data) < 0.6 * held_out(codes, data)
    assert [(n.name, n.op) for n in done.graph.ops()] == [(n.name, n.op) for n in codes.ops()]
    assert (
        "in codes" in heal(data.graph, narrow(data.graph), data.calls(), healers=HEALERS[:1]).steps[0].refused
    )


def test_each_kept_step_comes_nearer_on_the_judging_half(data, two_bits, monkeypatch):
    monkeypatch.setattr(bias_tuning, "SCHEDULE", Schedule(steps=30, checks=3))
    done = heal(two_bits, data.graph, data.calls(), healers=(corrected, bias_tuning))
    assert [s.name for s in done.steps] == ["bias_correction", "bias_tuning"]
    for step, following in zip(done.steps, done.steps[1:], strict=False):
        assert following.before == (step.after if step.kept else step.before)
    assert done.steps[-1].after < done.steps[0].before
    assert done == heal(two_bits, data.graph, data.calls(), healers=(corrected, bias_tuning))


def test_a_graph_that_lost_nothing_is_left(data):
    done = heal(data.graph, data.graph, data.calls())
    assert done.graph is data.graph and {s.refused for s in done.steps} == {"nothing is lost"}
    assert [s.name for s in done.steps] == [h.NAME for h in HEALERS]


def test_a_step_that_makes_it_worse_is_not_kept(data, two_bits):
    class Worse:
        NAME = "worse"
        refusal = staticmethod(lambda graph, original, parts: None)

        @staticmethod
        def heal(graph, original, parts, seed):
            return with_constants(
                graph, {n: torch.full_like(graph.constants[n].tensor, torch.nan) for n in biases(graph)}
            )

    done = heal(two_bits, data.graph, data.calls(), healers=(Worse(),))
    assert done.graph is two_bits and not done.steps[0].kept


def test_training_that_only_hurts_gives_back_the_start(data, two_bits, parts):
    forms = {n: Whole(two_bits.constants[n].tensor, rate=50.0) for n in biases(two_bits)}
    assert train(two_bits, data.graph, parts, forms, 0, Schedule(steps=3, checks=3)) == two_bits


def test_dense_outputs_are_judged_by_their_relative_error():
    y = [(drawn(2, 3, 4),), (drawn(2, 3, 4, seed=1),)]
    z = [(a + 0.1,) for (a,) in y]
    wanted = 0.01 * 48 / sum(float(a.square().sum()) for (a,) in y)
    assert float(distance(y, z)) == pytest.approx(wanted, rel=1e-5)
    assert float(distance(y, y)) == 0


def test_one_call_cannot_judge_itself(data, two_bits):
    with pytest.raises(UsageError, match="at least two calls, got 1"):
        heal(two_bits, data.graph, data.calls()[:1])
