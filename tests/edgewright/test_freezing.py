"""Frozen inputs: their values read and fitted, the call that remains, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from edgewright.check import make_cases
from edgewright.models import load_model
from edgewright.models.freezing import parse_freeze
from edgewright.stages import import_loaded, prepare


class Tuned(nn.Module):
    """Rows of a table chosen by a task and scaled by a coefficient, with a switch that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(
        self, x: torch.Tensor, task: torch.Tensor, omega: torch.Tensor, *, double: bool = False
    ) -> torch.Tensor:
        y = self.head(x * self.table(task).mean(0) * omega)
        return y * 2 if double else y


def tuned() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    example = {"x": torch.randn(2, 6), "task": torch.tensor([1]), "omega": torch.tensor(0.5), "double": False}
    return Tuned().eval(), example


def loaded(freeze: dict[str, Any], **options: Any) -> Any:
    module, example = tuned()
    return module, load_model(module, example, freeze=freeze, **options)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, str]:
    """One value in each form a file can have."""
    np.save(tmp_path / "task.npy", np.array([3, 2], dtype=np.int32))
    torch.save({"task": torch.tensor([3, 2]), "other": torch.zeros(1)}, tmp_path / "task.pt")
    save_file({"anything": torch.tensor([3, 2])}, tmp_path / "task.safetensors")
    return {suffix: str(tmp_path / f"task{suffix}") for suffix in (".npy", ".pt", ".safetensors")}


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors"])
def test_values_come_from_files_and_settle_sizes(saved: dict[str, str], suffix: str) -> None:
    module, model = loaded(parse_freeze([f"task={saved[suffix]}", "omega=0.25"]))
    x = torch.randn(2, 6)
    wanted = module(x, torch.tensor([3, 2]), torch.tensor(0.25))
    torch.testing.assert_close(model.call((), {"x": x, "double": False})[0], wanted)
    graph = import_loaded(model)
    assert [n.name for n in graph.inputs()] == ["x"]
    torch.testing.assert_close(evaluate(graph, [x])[0], wanted)


def test_numbers_lists_and_literals() -> None:
    module, model = loaded(parse_freeze(["task=2", "omega=1e-1", "double=true"]))
    x = torch.randn(2, 6)
    wanted = module(x, torch.tensor([2]), torch.tensor(0.1), double=True)
    torch.testing.assert_close(evaluate(prepare(model).graph, [x])[0], wanted)
    _, model = loaded({"task": torch.tensor([1, 2, 3]), "omega": 2})
    assert model.frozen.leaves[1].tolist() == [1, 2, 3]
    _, model = loaded(parse_freeze(["x=" + ",".join(map(str, range(12)))]))
    assert model.frozen.leaves[0].shape == (2, 6)


def test_the_original_is_called_with_the_frozen_values() -> None:
    module, model = loaded({"task": [3], "omega": 0.25})
    for case in make_cases(model, import_loaded(model)):
        assert len(case.call) == 1
        wanted = module(case.call[0], torch.tensor([3]), torch.tensor(0.25))
        torch.testing.assert_close(case.single[0], wanted)
        torch.testing.assert_close(case.double[0].float(), wanted)


def test_a_dynamic_batch_leaves_frozen_inputs_as_they_are() -> None:
    module, model = loaded({"task": [3, 1, 0], "omega": 0.25}, dynamic_batch=True)
    graph = prepare(model).graph
    assert [str(n.type) for n in graph.inputs()] == ["float32[n0, 6]"]
    x = torch.randn(5, 6)
    wanted = module(x, torch.tensor([3, 1, 0]), torch.tensor(0.25))
    torch.testing.assert_close(evaluate(graph, [x])[0], wanted)


def test_a_program_is_frozen_as_a_module_is(tmp_path: Path) -> None:
    module, example = tuned()
    torch.export.save(torch.export.export(module, (), example), tmp_path / "tuned.pt2")
    model = load_model(str(tmp_path / "tuned.pt2"), freeze={"task": 3, "omega": -0.75})
    x = torch.randn(2, 6)
    wanted = module(x, torch.tensor([3]), torch.tensor(-0.75))
    torch.testing.assert_close(evaluate(prepare(model).graph, [x])[0], wanted)
    torch.testing.assert_close(model.call(model.args, {**model.kwargs, "x": x})[0], wanted)


def test_random_statistics_are_gathered_with_the_frozen_values() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.norm(x * scale)

    module = Normed().eval()
    load_model(module, (torch.randn(4, 3), torch.ones(3)), randomize=1, freeze={"scale": [100.0, 1.0, 1.0]})
    assert module.norm.running_var[0] > 1000 * module.norm.running_var[1]


REFUSED = {
    "no value": (["task"], "'task' is not name=value; the value is a number"),
    "twice": (["task=1", "task=2"], "gives 'task' twice"),
    "unknown": (["tusk=1"], "no input 'tusk' to freeze; its inputs are x=2x6:float32, task=1:int64, omega="),
    "no number": (["omega=much"], "--freeze omega=much: the value is a number, a comma list"),
    "no file": (["task=absent.npy"], "absent.npy cannot be read: FileNotFoundError"),
    "fraction": (["task=1.5"], "'task' takes a 1:int64; the 1:float64 given does not fit its dtype"),
    "too many": (["omega=1,2"], "'omega' takes a scalar:float32, not a 2:int64"),
    "ragged": (["x=[1,2],[3]"], "'x' takes a 2x6:float32"),
    "literal": (["double=3"], "'double' is False in the example, a bool; got 3"),
    "out of range": (["task=9"], "Tuned does not run on"),
    "all": (["task=1", "omega=1", "x=" + ",".join("1" * 12)], "every input of Tuned is frozen"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_frozen_is_refused(name: str) -> None:
    texts, reason = REFUSED[name]
    with pytest.raises(UsageError) as error:
        loaded(parse_freeze(texts))
    assert reason in str(error.value)
