"""What one row of a table and constants decide is a table itself."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.passes.tabulate import tabulate
from tests.models.graphs import ops, through_passes

pytestmark = pytest.mark.core

X, TASKS = torch.randn(3, 8), 5


class Generated(nn.Module):
    """A linear layer whose weight a small network makes of a task's row."""

    def __init__(self, by_index: bool = False) -> None:
        super().__init__()
        self.tasks, self.make = nn.Embedding(TASKS, 4), nn.Linear(4, 48)
        self.by_index = by_index

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        row = self.tasks.weight.index_select(0, task) if self.by_index else self.tasks(task)
        return F.linear(x, torch.tanh(self.make(row)).reshape(6, 8))


def imported(net: nn.Module, task: torch.Tensor) -> Graph:
    return through_passes(net.eval(), X, task)


@pytest.mark.parametrize("by_index", [False, True])
@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
def test_a_generated_weight_is_read_from_a_table(by_index: bool, shape: tuple[int, ...]) -> None:
    if by_index and len(shape) > 1:
        return
    torch.manual_seed(1)
    net = Generated(by_index)
    graph = imported(net, torch.zeros(shape, dtype=torch.int64))
    assert set(ops(graph)) - {"reshape"} == {"index_select", "linear"}
    for task in range(TASKS):
        index = torch.full(shape, task, dtype=torch.int64)
        [got] = evaluate(graph, [X, index])
        torch.testing.assert_close(got, net(X, index))


def test_several_rows_at_once_stay() -> None:
    class Several(Generated):
        def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            return x[:2] * torch.tanh(self.make(self.tasks(task)))[:, :8]

    assert "embedding" in ops(imported(Several(), torch.tensor([0, 3])))


def test_a_plain_lookup_stays_one() -> None:
    class Plain(Generated):
        def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            return x[:, :4] * self.tasks(task)

    assert "embedding" in ops(imported(Plain(), torch.tensor([2])))


def test_what_the_input_decides_as_well_stays() -> None:
    class Mixed(Generated):
        def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            return F.linear(x, torch.tanh(self.make(self.tasks(task) * x.mean())).reshape(6, 8))

    assert {"embedding", "tanh"} <= set(ops(imported(Mixed(), torch.tensor([2]))))


def test_a_weight_under_one_of_several_masks_is_stored_once() -> None:
    class Masked(Generated):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.masks = nn.Parameter(torch.randn(6, 8)), nn.Embedding(TASKS, 48)

        def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
            mask = (self.masks(task) > 0).reshape(6, 8)
            return F.linear(x, self.weight * mask)

    graph = imported(Masked(), torch.tensor([2]))
    assert "mul" in ops(graph)
    assert sum(c.tensor.numel() for c in graph.constants.values()) == 48 * (TASKS + 1)


def test_a_table_past_the_bound_stays_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("compiler.passes.tabulate")
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 48 * TASKS - 1)
    graph = imported(Generated(), torch.tensor([2]))
    assert "tanh" in ops(graph)
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 48 * TASKS)
    assert "tanh" not in ops(tabulate(graph))
