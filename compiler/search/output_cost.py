"""What an option costs: how far the model's outputs move, on unlabelled samples.

Where the outputs are distributions over classes, the cost of a sample is the Kullback-Leibler
divergence of the two in nats,

    KL(p_ref || p_opt) = sum_c p_ref(c) (log p_ref(c) - log p_opt(c)),

summed over the outputs, which is the divergence of their joint distribution where they are independent.
Over the tokens of a sequence, or the pixels of an image, it is the mean: one sequence is one sample.
For all else it is the normalised mean squared error, summed over outputs y with equal weight,

    sum_y  |y_opt - y_ref|^2 / E|y_ref|^2,     the expectation over all samples,

a ratio of sums rather than a mean of ratios, so that a nearly silent sample cannot decide alone.
Both are 0 where nothing changes and about quadratic near 0. The mean over samples carries a
bootstrap standard error and a 95% percentile interval; samples are resampled, never their pixels or
tokens, which are not independent.

Which of the two it is follows from the graph (`cost_kind`), and the user may say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.compress.divergence import js_divergence, kl_divergence
from compiler.errors import NumericError, UsageError
from compiler.ir.graph import Graph, Node, Value

RESAMPLES = 2000

Outputs = Sequence[torch.Tensor]  # one call's floating outputs, in order


class CostKind(StrEnum):
    """What the cost counts."""

    KL = "kl_nats"
    JS = "js_nats"
    NMSE = "normalised_mse"


ASKED = {"kl": CostKind.KL, "js": CostKind.JS, "mse": CostKind.NMSE}  # as a user writes it

# An output that one of these bounds or normalises is no row of logits.
_NOT_LOGITS = frozenset({"sigmoid", "hardsigmoid", "tanh", "layer_norm", "native_layer_norm", "rms_norm"})
_SOFTMAX = frozenset({"softmax", "log_softmax", "_softmax", "_log_softmax"})
_VIEWS = frozenset({"view", "reshape", "flatten", "squeeze", "unsqueeze", "_to_copy", "clone", "alias"})


@dataclass(frozen=True)
class CostEstimate:
    """The mean cost over samples, its bootstrap standard error and 95% interval."""

    mean: float
    error: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class Terms:
    """What one call adds to the costs: for each output (row) and sample (column) a change and a signal.

    A sample's cost is the sum over outputs of its change over the mean signal of all samples; the
    signal of a divergence is 1.
    """

    change: NDArray[np.float64]
    signal: NDArray[np.float64]


def cost_kind(graph: Graph, asked: str | None = None) -> CostKind:
    """Return what the cost of a graph counts: what is asked for (`kl`, `js` or `mse`), else by its outputs.

    KL where every floating output is known to be a distribution over classes: a softmax, or the logits
    [N, T, V] of tokens that the graph embeds by a table of V rows. KL too where there is one floating
    output, [N, C] with C > 1, unless its last operation bounds or normalises it (a sigmoid, a tanh, a
    layer norm). Else the normalised mean squared error. An embedding [N, C] behind a pooling looks like
    logits: ask for `mse`.

    Raises UsageError for a graph without floating outputs, a word that is none of the three, and a
    divergence of outputs that have no classes.
    """
    values = _floating_values(graph)
    if not values:
        raise UsageError("the model has no floating output, so no cost of a change can be read from it")
    if asked is None:
        classes = all(_distribution(graph, v) for v in values)
        classes = classes or (len(values) == 1 and _like_logits(graph, values[0]))
        return CostKind.KL if classes else CostKind.NMSE
    if asked not in ASKED:
        raise UsageError(f"there is no cost {asked!r}; accepted: {', '.join(ASKED)}")
    kind = ASKED[asked]
    for name, value in zip(output_names(graph), values, strict=True):
        shape = graph.type_of(value).shape
        if kind is not CostKind.NMSE and (len(shape) < 2 or shape[class_dimension(len(shape))] == 1):
            raise UsageError(
                f"{name} has the type {graph.type_of(value)}, which holds no classes to compare by --cost "
                f"{asked}; give --cost mse"
            )
    return kind


def class_dimension(rank: int) -> int:
    """Return the dimension of the classes: the last of [N, C] and [N, T, V], the second of images."""
    return 1 if rank > 3 else -1


def floating(results: Sequence[object]) -> tuple[torch.Tensor, ...]:
    """Return the floating tensors among a call's results: those a cost can be read from."""
    return tuple(r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point())


def output_names(graph: Graph) -> tuple[str, ...]:
    """Return `output i` for each floating output, i its place among all results."""
    places = enumerate(operand for _, operand in graph.output.operands)
    return tuple(f"output {i}" for i, v in places if _is_floating(graph, v))


def sample_costs(
    reference: Sequence[Outputs],
    found: Sequence[Outputs],
    kind: CostKind,
    batch: int = 1,
    names: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Return one cost for each sample of all calls.

    `reference` and `found` hold the outputs of each call; `batch` is the number of samples in a
    call, 1 where the first dimension of the outputs is not the batch's. `names` are the outputs' own.

    Raises NumericError for NaN or infinite outputs, naming the output and the first sample.
    """
    terms: list[Terms] = []
    for own, other in zip(reference, found, strict=True):
        done = sum(t.change.shape[1] for t in terms)
        terms.append(call_terms(own, other, kind, batch, names, done))
    return total_costs(terms)


def call_terms(
    reference: Outputs,
    found: Outputs,
    kind: CostKind,
    batch: int = 1,
    names: Sequence[str] = (),
    done: int = 0,
) -> Terms:
    """Return what one call adds to the costs, so that no outputs need be kept; `done` samples came before.

    Raises NumericError as `sample_costs` does.
    """
    check_finite(reference, "the reference", names, batch, done)
    check_finite(found, "the variant", names, batch, done)
    if kind is CostKind.NMSE:
        own, other = ([_rows(t, batch) for t in outputs] for outputs in (reference, found))
        change = [((f - r) ** 2).sum(1).numpy() for r, f in zip(own, other, strict=True)]
        return Terms(np.stack(change), np.stack([(r**2).sum(1).numpy() for r in own]))
    change = [_divergence(r, f, kind) for r, f in zip(reference, found, strict=True)]
    return Terms(np.stack(change), np.ones((len(change), len(change[0]))))


def total_costs(terms: Iterable[Terms]) -> NDArray[np.float64]:
    """Return one cost for each sample of all calls."""
    known = list(terms)
    change = np.concatenate([t.change for t in known], 1)
    signal = np.concatenate([t.signal for t in known], 1)
    scale = signal.mean(1, keepdims=True)
    costs: NDArray[np.float64] = (change / np.where(scale == 0, 1.0, scale)).sum(0)
    return costs


def check_finite(
    outputs: Outputs, who: str, names: Sequence[str] = (), batch: int = 1, done: int = 0
) -> None:
    """Raise NumericError naming the first output that is not finite and the sample; `done` came before."""
    for index, output in enumerate(outputs):
        if bool(torch.isfinite(output).all()):
            continue
        rows = output.reshape(batch if _holds(output, batch) else 1, -1)
        sample = done + int(torch.nonzero(~torch.isfinite(rows).all(1))[0])
        kind = "NaN" if bool(torch.isnan(output).any()) else "infinite values"
        name = names[index] if names else f"floating output {index}"
        raise NumericError(
            f"{who} gives {kind} at {name} for calibration sample {sample} (counted from 0): no cost can be "
            f"read from that. Check that sample, and that the model's own outputs are finite"
        )


def estimate(costs: NDArray[np.float64], seed: int = 0) -> CostEstimate:
    """Return the mean with its bootstrap error and interval; raises ValueError without samples."""
    if not len(costs):
        raise ValueError("a cost needs at least one sample")
    picks = np.random.default_rng(seed).integers(len(costs), size=(RESAMPLES, len(costs)))
    means = costs[picks].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return CostEstimate(float(costs.mean()), float(means.std()), float(low), float(high), len(costs))


def _divergence(reference: torch.Tensor, found: torch.Tensor, kind: CostKind) -> NDArray[np.float64]:
    """Return one divergence for each sample: the mean over its tokens or pixels."""
    of = js_divergence if kind is CostKind.JS else kl_divergence
    each = of(reference, found, class_dimension(reference.dim()))
    rows: NDArray[np.float64] = each.reshape(len(each), -1).mean(1).numpy()
    return rows


def _rows(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    return tensor.detach().double().reshape(batch if _holds(tensor, batch) else 1, -1)


def _holds(tensor: torch.Tensor, batch: int) -> bool:
    return batch > 1 and tensor.dim() > 0 and tensor.shape[0] == batch


def _is_floating(graph: Graph, operand: object) -> bool:
    return isinstance(operand, Value) and graph.type_of(operand).dtype.is_floating_point


def _floating_values(graph: Graph) -> list[Value]:
    return [v for _, v in graph.output.operands if _is_floating(graph, v)]


def _distribution(graph: Graph, value: Value) -> bool:
    """Tell whether a value is known to be a distribution: a softmax over its classes, or tokens' logits."""
    type_, last = graph.type_of(value), _last(graph, value)
    if _short(last) in _SOFTMAX:
        return type_.rank > 1 and last.operand("dim") % type_.rank == class_dimension(type_.rank) % type_.rank
    return type_.rank == 3 and type_.shape[-1] in _vocabularies(graph)


def _like_logits(graph: Graph, value: Value) -> bool:
    type_ = graph.type_of(value)
    return type_.rank == 2 and type_.shape[1] != 1 and _short(_last(graph, value)) not in _NOT_LOGITS


def _vocabularies(graph: Graph) -> frozenset[object]:
    """Return the numbers of rows of the tables that tokens are looked up in."""
    tables = [n.operand("weight") for n in graph.ops() if n.op == "aten.embedding.default"]
    return frozenset(graph.type_of(t).shape[0] for t in tables)


def _last(graph: Graph, value: Value) -> Node:
    """Return the operation that computes a value, behind what only gives it another shape."""
    node = graph.producer(value)
    while _short(node) in _VIEWS:
        node = graph.producer(node.operand("self"))
    return node


def _short(node: Node) -> str:
    return node.op.split(".")[1] if "." in node.op else ""
