"""A few steps of training on a graph's constants, towards the original's outputs; the best state is kept.

Best is by the judging half, which gives no gradients. Training starts from the graph as it is, and that
state counts: what comes back is never further from the original there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from compiler.compress.heal.gradient import Differentiable
from compiler.compress.heal.objective import Halves, Outputs, distance, reference
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph
from compiler.ir.verify import verify


class Form(Protocol):
    """How a constant is written in terms of what is trained."""

    rate: float

    def parameters(self) -> Sequence[torch.Tensor]:
        """Return the leaves that gradients go to."""
        ...

    def tensor(self) -> torch.Tensor:
        """Return the constant."""
        ...


class Whole:
    """The constant itself; where `keep_zeros`, what is zero stays zero."""

    def __init__(self, start: torch.Tensor, rate: float, keep_zeros: bool = False) -> None:
        """Start from the stored tensor."""
        self.rate = rate
        self._own = start.detach().clone().requires_grad_()
        self._mask = (start != 0).to(start.dtype) if keep_zeros else None

    def parameters(self) -> Sequence[torch.Tensor]:
        """Return the constant's own leaf."""
        return (self._own,)

    def tensor(self) -> torch.Tensor:
        """Return the constant."""
        return self._own if self._mask is None else self._own * self._mask


@dataclass(frozen=True)
class Schedule:
    """Adam steps, the images in each, and how often the judging half is asked; rates fall to 0."""

    steps: int = 150
    batch: int = 50
    checks: int = 10


def train(
    graph: Graph,
    original: Graph,
    parts: Halves,
    forms: Mapping[str, Form],
    seed: int = 0,
    schedule: Schedule | None = None,
) -> Graph:
    """Return the graph with the best state of the named constants.

    Args:
        graph: the graph to heal.
        original: what its outputs should be.
        parts: calls to fit on and to judge by.
        forms: constant name -> what of it is trained.
        seed: of the order of the calls.
        schedule: how long.
    """
    if not forms:
        return graph
    plan = schedule or Schedule()
    run = Differentiable(graph, forms)
    wanted, judged = reference(original, parts.fit), reference(original, parts.judge)
    groups = [{"params": list(form.parameters()), "lr": form.rate} for form in forms.values()]
    adam = torch.optim.Adam(groups)
    rates = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, plan.steps)
    best, state = _judge(run, forms, judged, parts), _state(forms)
    batches = _batches(parts, plan.batch, torch.Generator().manual_seed(seed))
    for step in range(1, plan.steps + 1):
        picks = next(batches)
        given = {name: form.tensor() for name, form in forms.items()}
        adam.zero_grad()
        loss = distance([wanted[i] for i in picks], [run(parts.fit[i], given) for i in picks])
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        rates.step()
        if step % max(plan.steps // plan.checks, 1) == 0:
            found = _judge(run, forms, judged, parts)
            best, state = (found, _state(forms)) if found < best else (best, state)
    return with_constants(graph, state)


def with_constants(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> Graph:
    """Return the graph with other contents for some constants, by name."""
    editor = Editor(graph)
    for name, tensor in tensors.items():
        editor.graph.constants[name] = Constant(tensor)
    result = editor.finish()
    verify(result)
    return result


@torch.no_grad()
def _judge(run: Differentiable, forms: Mapping[str, Form], wanted: Sequence[Outputs], parts: Halves) -> float:
    given = {name: form.tensor() for name, form in forms.items()}
    return float(distance(wanted, [run(sample, given) for sample in parts.judge]))


def _state(forms: Mapping[str, Form]) -> dict[str, torch.Tensor]:
    return {name: form.tensor().detach().clone() for name, form in forms.items()}


def _batches(parts: Halves, images: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield drawn calls of the fitting half that hold about so many images, without end."""
    calls = len(parts.fit) + len(parts.judge)
    size = max(1, round(images * calls / max(parts.images, 1)))
    while True:
        order = torch.randperm(len(parts.fit), generator=generator).tolist()
        yield from (order[i : i + size] for i in range(0, len(order), size))
