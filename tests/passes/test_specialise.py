"""Inputs that become constants: equal results, a shorter call, sizes bound, refusals with their reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.export import export_graph, fold_inputs
from compiler.frontends.torch_export import import_model
from compiler.ir.text import parse_graph
from compiler.ir.verify import verify
from compiler.passes.specialise import specialise
from tests.models.graphs import ops, passed


class TunableConv(nn.Module):
    """Kernels mixed by coefficients that a small map makes of a user's parameter (`merges.md` 2.17)."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(3, 5, 4, 3, 3))
        self.biases = nn.Parameter(torch.randn(3, 5))
        self.map = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        alpha = torch.tanh(self.map(omega)).reshape(3)
        kernel = (alpha.reshape(3, 1, 1, 1, 1) * self.kernels).sum(0)
        return F.conv2d(x, kernel, (alpha[:, None] * self.biases).sum(0), padding=1)


class DualEncoder(nn.Module):
    """Cosine logits of an image tower and a text tower over token ids (`merges.md` 2.24)."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(6, 8, bias=False)
        self.embedding = nn.Embedding(10, 8)
        self.text = nn.Linear(8, 8)
        self.log_scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        text = self.text(torch.tanh(self.embedding(tokens))).mean(1)
        left, right = F.normalize(self.image(image), dim=-1), F.normalize(text, dim=-1)
        return self.log_scale.exp() * left @ right.t()


def test_a_frozen_coefficient_makes_a_tunable_convolution_plain() -> None:
    torch.manual_seed(0)
    module, x, omega = (
        TunableConv().double().eval(),
        torch.randn(2, 4, 7, 7).double(),
        torch.randn(2).double(),
    )
    graph = import_model(module, (x, omega))
    frozen = specialise(graph, {"omega": omega})
    verify(frozen)
    assert [n.name for n in frozen.inputs()] == ["x"]
    folded = passed(frozen)
    assert ops(folded) == ["conv2d"]
    torch.testing.assert_close(evaluate(folded, [x])[0], module(x, omega), rtol=1e-12, atol=1e-12)
    assert "tanh" in ops(passed(graph)), "without freezing the mixing stays"


def test_the_call_loses_the_input_and_keeps_its_form() -> None:
    torch.manual_seed(1)
    module, tokens = DualEncoder().eval(), torch.randint(0, 10, (3, 4))
    image = torch.randn(2, 6)
    graph = import_model(module, (), {"tokens": tokens, "image": image})
    folded = passed(specialise(graph, {"tokens": tokens}))
    assert not {"embedding", "tanh", "exp"} & set(ops(folded))
    assert fold_inputs(folded, [image]) == ((), {"image": image})
    program = export_graph(folded)
    torch.testing.assert_close(program.module()(image=image), module(image, tokens))


def test_an_item_of_a_nested_argument_leaves_it() -> None:
    class Nested(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor], pair: list[torch.Tensor]) -> torch.Tensor:
            return batch["a"] * batch["b"] + pair[0]

    a, b, c = torch.randn(3), torch.randn(3), torch.randn(3)
    graph = import_model(Nested().eval(), ({"a": a, "b": b}, [c]))
    frozen = specialise(graph, {"batch_b": b, "pair_0": c})
    assert fold_inputs(frozen, [a]) == (({"a": a},), {})
    torch.testing.assert_close(evaluate(frozen, [a])[0], a * b + c)


def test_a_size_that_the_value_has_is_bound_everywhere() -> None:
    text = """graph {
      symbols {"n0": [1, 9], "n1": [1, 5]}
      %x = input : float32[n0, n1]
      %y = input : float32[n0, 2]
      %a = aten.cat.default(tensors=[%x, %y], dim=1) : float32[n0, n1 + 2]
      %b = aten.reshape.default(self=%a, shape=[{n0*(n1 + 2)}]) : float32[n0*(n1 + 2)]
      %s = aten.sum.dim_IntList(self=%y, dim=[1], keepdim=false, dtype=none) : float32[n0]
      %r = aten.reshape.default(self=%s, shape=[{n0//2}, 2]) : float32[n0//2, 2]
      return(r0=%b, r1=%r)
    }"""
    y = torch.randn(4, 2)
    graph = specialise(parse_graph(text), {"y": y})
    verify(graph)
    assert graph.symbols == {"n1": (1, 5, None)}
    assert [str(n.type) for n in graph.inputs()] == ["float32[4, n1]"]
    assert str(graph.node("b").type) == "float32[4 * (n1 + 2)]"
    assert graph.node("r").operand("shape") == (2, 2)
    x = torch.randn(4, 3)
    flat, sums = evaluate(graph, [x])
    torch.testing.assert_close(flat, torch.cat([x, y], 1).reshape(-1))
    torch.testing.assert_close(sums, y.sum(1).reshape(2, 2))


REFUSALS = {
    "unknown": ({"z": torch.zeros(4, 2)}, "no input 'z' .* x: float32\\[n0, n1\\], y: float32\\[n0, 2\\]"),
    "dtype": (
        {"y": torch.zeros(4, 2).long()},
        "'y' cannot be frozen to a int64\\[4, 2\\]; the inputs are x: ",
    ),
    "shape": ({"y": torch.zeros(4, 3)}, "'y' cannot be frozen to a float32\\[4, 3\\]"),
    "rank": ({"y": torch.zeros(4)}, "'y' cannot be frozen to a float32\\[4\\]"),
    "range": ({"y": torch.zeros(12, 2)}, "size 12 is out of the range of n0, 1 to 9"),
    "all": ({"x": torch.zeros(4, 2), "y": torch.zeros(4, 2)}, "every input is frozen"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    text = """graph {
      symbols {"n0": [1, 9], "n1": [1, 5]}
      %x = input : float32[n0, n1]
      %y = input : float32[n0, 2]
      %a = aten.cat.default(tensors=[%x, %y], dim=1) : float32[n0, n1 + 2]
      return(r0=%a)
    }"""
    values, reason = REFUSALS[name]
    with pytest.raises(UsageError, match=reason):
        specialise(parse_graph(text), values)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    text = """graph {
      symbols {"n0": [1, 9], "n1": [1, 9]}
      %x = input : float32[n0]
      %y = input : float32[n0, 2*n0]
      %z = input : float32[2*n1]
      %a = aten.add.Tensor(self=%x, other=%x) : float32[n0]
      return(r0=%a)
    }"""
    with pytest.raises(UsageError, match="'y' has size 7 where 2\\*n0 is 6"):
        specialise(parse_graph(text), {"y": torch.zeros(3, 7)})
    with pytest.raises(UsageError, match="its size 2\\*n1 is an expression"):
        specialise(parse_graph(text), {"z": torch.zeros(4)})
