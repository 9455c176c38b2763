"""Which kernel is measured next: the one whose uncertainty could turn a decision, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.compress.kernel_choices import precision_choices, width_choices
from compiler.cost.choices import Belief, Choice, Option, next_kernels, option_belief, settled, value
from compiler.cost.kernel import TensorSpec, kernel_call, kernel_graph
from compiler.cost.quantized import Quantized, parse_quantized
from compiler.errors import UsageError
from compiler.target import FLOAT, FLOAT16, INT4, INT8, INT8_DYNAMIC


def relu(width: int):
    return kernel_call("aten.relu.default", {"self": TensorSpec((1, width), "float32", False)})


def linear(wide: int, out: int):
    x, w = TensorSpec((1, wide), "float32", False), TensorSpec((out, wide), "float32", True)
    bias = TensorSpec((out,), "float32", True)
    return kernel_call("aten.linear.default", {"input": x, "weight": w, "bias": bias})


A, B, C, D = map(relu, (1, 2, 3, 4))


def choice(*options) -> Choice:
    return Choice("here", "merge", tuple(Option(f"o{i}", tuple(o)) for i, o in enumerate(options)))


def held(**beliefs):
    names = {"A": A, "B": B, "C": C, "D": D}
    return {names[k]: Belief(*v) for k, v in beliefs.items()}.get


def test_the_value_is_the_expected_loss_of_choosing_by_the_means() -> None:
    found = value(choice([A], [B]), held(A=(100, 10, False), B=(105, 10, False)))
    draw = np.random.default_rng(0)
    a, b = 100 + 10 * draw.standard_normal(400_000), 105 + 10 * draw.standard_normal(400_000)
    assert found == pytest.approx(np.mean(a - np.minimum(a, b)), rel=0.02)


def test_what_cannot_turn_a_decision_is_worth_nothing() -> None:
    beliefs = held(A=(100, 1, False), B=(500, 50, False), C=(100, 5, False), D=(101, 5, False))
    far, near = choice([A], [B]), choice([C], [D])
    assert value(far, beliefs) < 1e-6 < value(near, beliefs)
    # B is the most uncertain, and comes behind the two that decide.
    assert set(next_kernels([A, B, C, D], [far, near], beliefs, 2)) == {C, D}
    assert next_kernels([A, B, C, D], [far, near], beliefs, 3)[2] is B
    assert (settled(far, beliefs), settled(near, beliefs)) == (True, False)


def test_measured_kernels_take_no_share() -> None:
    beliefs = held(A=(100, 8, True), B=(101, 3, False), C=(50, 4, False))
    assert next_kernels([B, C], [choice([A], [B])], beliefs, 1) == (B,)


def test_of_an_unknown_kind_one_kernel_comes_first_and_the_rest_wait() -> None:
    beliefs = held(A=(100, 8, False), B=(101, 3, False))
    order = next_kernels([A, B, C, D, linear(8, 8)], [choice([A], [B])], beliefs, 5)
    assert set(order[:2]) == {C, linear(8, 8)}  # one relu, one linear
    assert order[2:4] == (A, B)
    assert order[4] is D


def test_the_order_does_not_depend_on_the_order_asked_in() -> None:
    beliefs = held(A=(100, 8, False), B=(101, 8, False), C=(100, 8, False))
    given = [choice([A], [B, C])]
    assert next_kernels([A, B, C], given, beliefs, 3) == next_kernels([C, B, A], given, beliefs, 3)


def test_an_option_is_the_sum_of_its_kernels_and_unknown_with_one() -> None:
    beliefs = held(A=(100, 3, True), B=(10, 4, False))
    assert option_belief(Option("o", (A, B, B)), beliefs) == Belief(120, pytest.approx(41**0.5), False)
    assert option_belief(Option("o", (A, C)), beliefs) is None


def test_precisions_are_those_the_target_has() -> None:
    graph = kernel_graph(linear(64, 32))
    (found,) = precision_choices(graph, (FLOAT, FLOAT16, INT8, INT8_DYNAMIC, INT4))
    assert {o.name: o.kernels for o in found.options} == {
        FLOAT: (linear(64, 32),),
        FLOAT16: (Quantized(linear(64, 32), FLOAT16),),
        INT8: (Quantized(linear(64, 32), INT8),),
        INT8_DYNAMIC: (Quantized(linear(64, 32), INT8_DYNAMIC),),
        INT4: (Quantized(linear(64, 32), INT4),),
    }
    (narrow,) = precision_choices(kernel_graph(linear(40, 32)), (FLOAT, INT8, INT4))
    assert [o.name for o in narrow.options] == [FLOAT, INT8]  # its rows hold no whole groups
    assert precision_choices(graph, (FLOAT,)) == ()
    assert precision_choices(kernel_graph(A), (FLOAT, INT8)) == ()


def test_widths_stand_on_the_step_and_keep_the_rest_of_the_call() -> None:
    (found,) = width_choices(kernel_graph(linear(64, 40)))
    assert [o.name for o in found.options] == ["40 channels", "32 channels", "16 channels"]
    assert found.options[1].kernels == (linear(64, 32),)
    assert width_choices(kernel_graph(linear(64, 8))) == ()


def test_a_kernel_in_int8_is_another_kernel_and_reads_back() -> None:
    kernel = Quantized(linear(64, 32), INT8)
    assert parse_quantized(kernel.text) == kernel != linear(64, 32)
    with pytest.raises(UsageError, match="not a kernel in int8"):
        parse_quantized(linear(64, 32).text)
    with pytest.raises(ValueError, match="no precision of a kernel"):
        Quantized(linear(8, 8), "int3")
