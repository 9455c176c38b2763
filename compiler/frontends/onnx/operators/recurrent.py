"""RNN, GRU and LSTM, unrolled over their steps.

The gates' input products are one linear layer over all steps; only the recurrent product is one for each
step. Gate orders are ONNX's: `iofc` for LSTM, `zrh` for GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import ints
from compiler.frontends.onnx.registry import op

Activation = Callable[[Tensor], Tensor]


def _activations(call: Call, defaults: list[str], direction: int) -> list[Activation]:
    names = [n.lower() for n in call.attr("activations") or defaults * 2]
    # Each list holds one number for each function that takes one, in order.
    alphas, betas = iter(call.attr("activation_alpha", [])), iter(call.attr("activation_beta", []))
    made = []
    for name in names:
        alpha, beta = _DEFAULTS.get(name, (None, None))
        alpha = None if alpha is None else next(alphas, alpha)
        beta = None if beta is None else next(betas, beta)
        made.append(_activation(name, alpha or 0.0, beta or 0.0))
    count = len(defaults)
    return made[direction * count : (direction + 1) * count]


# What a function takes where nothing is given: alpha, beta.
_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0, None),
}


def _activation(name: str, alpha: float, beta: float) -> Activation:
    known: dict[str, Activation] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": F.softsign,
        "softplus": F.softplus,
        "elu": lambda x: F.elu(x, alpha),
        "leakyrelu": lambda x: F.leaky_relu(x, alpha),
        "thresholdedrelu": lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        "hardsigmoid": lambda x: torch.clamp(alpha * x + beta, 0, 1),
        "affine": lambda x: alpha * x + beta,
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
    }
    if name not in known:
        raise UnsupportedModelError(f"the recurrent activation {name!r}")
    return known[name]


@dataclass
class _Cell:
    """One direction of a layer: its weights, and what a step needs."""

    call: Call
    recurrence: Tensor
    bias: Tensor
    activations: list[Activation]
    peepholes: Tensor | None = None

    def clip(self, x: Tensor) -> Tensor:
        bound = self.call.attr("clip")
        return x if not bound else torch.clamp(x, -bound, bound)

    def rnn(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        run = self.activations[0]
        return (run(self.clip(gates + F.linear(state[0], self.recurrence, self.bias))),)

    def gru(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        gate, hidden = self.activations
        gz, gr, gh = gates.chunk(3, -1)
        rz, rr, rh = self.recurrence.chunk(3)
        bz, br, bh = self.bias.chunk(3)
        z = gate(self.clip(gz + F.linear(h, rz, bz)))
        r = gate(self.clip(gr + F.linear(h, rr, br)))
        if self.call.attr("linear_before_reset", 0):
            new = hidden(self.clip(gh + r * F.linear(h, rh, bh)))
        else:
            new = hidden(self.clip(gh + F.linear(r * h, rh, bh)))
        return ((1 - z) * new + z * h,)

    def lstm(self, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        gate, cell, hidden = self.activations
        i, o, f, g = (gates + F.linear(h, self.recurrence, self.bias)).chunk(4, -1)
        pi, po, pf = (None, None, None) if self.peepholes is None else self.peepholes.chunk(3)
        i = gate(self.clip(i if pi is None else i + pi * c))
        f = gate(self.clip(f if pf is None else f + pf * c))
        f = 1 - i if self.call.attr("input_forget", 0) else f
        c = f * c + i * cell(self.clip(g))
        o = gate(self.clip(o if po is None else o + po * c))
        return o * hidden(c), c


_KINDS: dict[str, tuple[int, list[str], Any]] = {
    "RNN": (1, ["Tanh"], _Cell.rnn),
    "GRU": (3, ["Sigmoid", "Tanh"], _Cell.gru),
    "LSTM": (4, ["Sigmoid", "Tanh", "Tanh"], _Cell.lstm),
}


@op("RNN", "GRU", "LSTM", slots=True)
def recurrent(
    call: Call,
    x: Any,
    weight: Any,
    recurrence: Any,
    bias: Any = None,
    lengths: Any = None,
    hidden: Any = None,
    cell: Any = None,
    peepholes: Any = None,
) -> tuple[Tensor, ...]:
    """Run the layer in one or both directions; returns all outputs, the last, and LSTM's last cell."""
    gates, defaults, step = _KINDS[call.step.op]
    x, weight, recurrence, bias, hidden, cell, peepholes = map(
        call.tensor, (x, weight, recurrence, bias, hidden, cell, peepholes)
    )
    batch_first = call.attr("layout", 0)
    if batch_first:
        x, hidden, cell = (None if t is None else t.transpose(0, 1) for t in (x, hidden, cell))
    directions, size = recurrence.shape[0], recurrence.shape[-1]
    known = None if lengths is None else ints(lengths.as_array("the lengths of sequences must be known"))
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    outputs, lasts = [], []
    for d, reverse in enumerate(backwards[call.attr("direction", "forward")]):
        own = torch.zeros(2 * gates * size, dtype=x.dtype) if bias is None else bias[d]
        parts = _Cell(
            call,
            recurrence[d],
            own[gates * size :],
            _activations(call, defaults, d),
            None if peepholes is None else peepholes[d],
        )
        zero = torch.zeros(x.shape[1], size, dtype=x.dtype)
        state = tuple(zero if s is None else s[d] for s in ((hidden, cell) if gates == 4 else (hidden,)))
        products = F.linear(x, weight[d], own[: gates * size])
        made, state = _walk(products, state, reverse, known, partial(step, parts))
        outputs.append(made)
        lasts.append(state)
    every = torch.stack(outputs, 1)
    final = [torch.stack(column) for column in zip(*lasts, strict=True)]
    if batch_first:
        every, final = every.permute(2, 0, 1, 3), [f.transpose(0, 1) for f in final]
    assert directions == len(outputs)
    return (every, *final)


def _walk(
    products: Tensor,
    state: tuple[Tensor, ...],
    reverse: bool,
    lengths: list[int] | None,
    step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outputs of all steps, [T, B, H], and the last state; a finished row keeps its own."""
    count = products.shape[0]
    outputs: list[Tensor] = [products] * count
    for t in reversed(range(count)) if reverse else range(count):
        new = step(products[t], state)
        if lengths is None:
            outputs[t], state = new[0], new
            continue
        alive = torch.tensor([[t < n] for n in lengths])
        state = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
        outputs[t] = torch.where(alive, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), state
