"""A model and several of its checkpoints in, a soup out: scored, re-normalised and measured.

An ingredient is scored as it came. Every soup has its BatchNorm statistics gathered again before it
is scored, since that is what would be deployed. A greedy soup that keeps one ingredient is that
ingredient, statistics and all.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from compiler.compress.average import (
    StateDict,
    Trial,
    Untrained,
    greedy_soup,
    representatives,
    uniform_soup,
)
from compiler.compress.batch_statistics import batch_norms, reestimate
from compiler.compress.deviation import Outputs, deviations, floating
from compiler.errors import UnsupportedModelError, UsageError
from compiler.frontends.blame import blame
from edgewright.average_output import (
    Draft,
    batch_norm_document,
    deviation_document,
    kl_nats,
    noisy_statistics,
)
from edgewright.checkpoints import Checkpoint, state_of, untrained_keys
from edgewright.models import LoadedModel
from edgewright.models.loaded import call_flat
from edgewright.stages import Progress

Score: TypeAlias = Callable[[nn.Module], float]
Batches: TypeAlias = Sequence[tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class _Kitchen:
    """What every step of a soup needs: a module of our own, the ingredients and the data."""

    module: nn.Module
    names: tuple[str, ...]
    states: tuple[StateDict, ...]
    batches: Batches
    score: Score | None
    progress: Progress

    def serve(self, state: StateDict, renew: bool) -> tuple[str, ...]:
        """Put weights into the module; with `renew`, gather its statistics again and say which."""
        self.module.load_state_dict(dict(state))
        return reestimate(self.module, self.batches) if renew else ()

    def scored(self, state: StateDict) -> float:
        """Return the score of an ingredient as it came, or of a soup with its own statistics."""
        assert self.score is not None
        self.serve(state, renew=not any(state is own for own in self.states))
        self.progress("score")
        with torch.no_grad():
            value = self.score(self.module)
        self.module.eval()
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the score is a {type(value).__name__}, not a number") from error


@dataclasses.dataclass(frozen=True)
class _Soup:
    """A soup's state before its statistics are gathered, the trials that led to it, and its score."""

    state: StateDict
    kept: tuple[int, ...]
    trials: tuple[Trial, ...]
    score: float | None


def make_soup(
    loaded: LoadedModel,
    checkpoints: Sequence[Checkpoint],
    greedy: bool,
    batches: Batches,
    score: Score | None,
    progress: Progress,
) -> Draft:
    """Return the uniform or greedy soup of a module's checkpoints, measured on the batches.

    Raises UsageError for checkpoints that do not fit, batches the model does not take, or a greedy
    soup without a score; UnsupportedModelError where the soup cannot be exported.
    """
    kitchen = _kitchen(loaded, checkpoints, batches, score, progress)
    untrained = untrained_keys(kitchen.module)
    progress(f"soup: {len(checkpoints)} checkpoints")
    soup = _greedy(kitchen, untrained) if greedy else _uniform(kitchen, untrained)
    layers = kitchen.serve(soup.state, renew=len(soup.kept) > 1)
    state = {key: value.detach().clone() for key, value in kitchen.module.state_dict().items()}
    state = _retied(state, kitchen.module.state_dict())
    progress("compare")
    document = {
        "model": loaded.spec,
        "method": "greedy" if greedy else "uniform",
        "exactness": "lossy",
        "ingredients": _ingredients(kitchen, soup),
        "score": soup.score,
        "batch_norm": batch_norm_document(layers, batches),
        "deviation": _deviation(kitchen, soup, state),
        "warnings": _warnings(kitchen, soup, layers),
    }
    kitchen.serve(state, renew=False)
    return _draft(dataclasses.replace(loaded, source=kitchen.module), state, document)


def _kitchen(
    loaded: LoadedModel,
    checkpoints: Sequence[Checkpoint],
    batches: Batches,
    score: Score | None,
    progress: Progress,
) -> _Kitchen:
    if not isinstance(loaded.source, nn.Module):
        raise UsageError(
            f"{loaded.spec} is an exported program, whose BatchNorms are fixed; a soup needs the module: "
            "file.py:attr, package.module:attr or timm:NAME"
        )
    if len(checkpoints) < 2:
        raise UsageError("a soup needs two checkpoints at least: give --checkpoint more than once")
    if not batches:
        raise UsageError("a soup is lossy and is measured on batches: give --batches data.py:batches")
    module = copy.deepcopy(loaded.source)
    named = [
        str(c) if isinstance(c, str) or hasattr(c, "__fspath__") else f"checkpoint {i + 1}"
        for i, c in enumerate(checkpoints)
    ]
    states = tuple(state_of(c, module, name) for c, name in zip(checkpoints, named, strict=True))
    kitchen = _Kitchen(module, tuple(named), states, batches, score, progress)
    _outputs(kitchen, states[0])  # tells batches that the model does not take before anything else
    return kitchen


def _uniform(kitchen: _Kitchen, untrained: Untrained) -> _Soup:
    state = uniform_soup(kitchen.states, untrained, kitchen.names)
    kept = tuple(range(len(kitchen.states)))
    if kitchen.score is None:
        return _Soup(state, kept, (), None)
    trials = tuple(Trial(i, kitchen.scored(own), None, True) for i, own in enumerate(kitchen.states))
    return _Soup(state, kept, trials, kitchen.scored(state))


def _greedy(kitchen: _Kitchen, untrained: Untrained) -> _Soup:
    if kitchen.score is None:
        raise UsageError("a greedy soup needs a held-out score, more is better: give --score data.py:score")
    found = greedy_soup(kitchen.states, kitchen.scored, untrained, kitchen.names)
    one = len(found.kept) == 1
    state = kitchen.states[found.kept[0]] if one else found.state
    return _Soup(state, found.kept, found.trials, found.score)


def _ingredients(kitchen: _Kitchen, soup: _Soup) -> list[dict[str, Any]]:
    """Return the ingredients in the order they were tried, each with its scores where there are any."""
    if not soup.trials:
        return [{"name": name, "kept": True, "score": None, "soup_score": None} for name in kitchen.names]
    return [
        {"name": kitchen.names[t.ingredient], "kept": t.kept, "score": t.own, "soup_score": t.with_it}
        for t in soup.trials
    ]


def _deviation(kitchen: _Kitchen, soup: _Soup, state: StateDict) -> list[dict[str, Any]]:
    found = _outputs(kitchen, state)
    documents = []
    for index, (name, own) in enumerate(zip(kitchen.names, kitchen.states, strict=True)):
        reference = _outputs(kitchen, own)
        kl = kl_nats(reference, found)
        documents.append(deviation_document(name, deviations(reference, found), kl, kept=index in soup.kept))
    return documents


def _outputs(kitchen: _Kitchen, state: StateDict) -> list[Outputs]:
    kitchen.serve(state, renew=False)
    found: list[Outputs] = []
    for index, batch in enumerate(kitchen.batches):
        try:
            found.append(floating(call_flat(kitchen.module, batch, {})))
        except Exception as error:  # a model may raise anything on inputs it was not written for
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"the model does not run on batch {index + 1}: {reason}") from error
    return found


def _warnings(kitchen: _Kitchen, soup: _Soup, layers: Sequence[str]) -> list[str]:
    found = noisy_statistics(layers, kitchen.batches)
    missed = [name for name in batch_norms(kitchen.module) if name not in layers]
    if missed and len(soup.kept) > 1:
        found.append(f"no batch reaches the BatchNorms {', '.join(missed)}: their statistics are a mere mean")
    best = max((t.own for t in soup.trials), default=None)
    if best is not None and soup.score is not None and soup.score < best:
        found.append(f"the soup scores {soup.score:.6g}, its best ingredient alone {best:.6g}")
    if len(soup.kept) == 1:
        best_name = kitchen.names[soup.kept[0]]
        found.append(f"no other ingredient improves {best_name}: the soup is that one alone")
    return found


def _retied(state: Mapping[str, torch.Tensor], tied: StateDict) -> dict[str, torch.Tensor]:
    """Return the state with one tensor for all keys that are tied in the module."""
    return {key: state[first] for key, first in representatives(tied).items()}


def _draft(soup: LoadedModel, state: StateDict, document: Mapping[str, Any]) -> Draft:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(soup.module, soup.args, dict(soup.kwargs))
    except Exception as error:  # torch.export raises anything the user's forward raises
        raise UnsupportedModelError(blame(error)) from error
    single = soup.call(soup.args, soup.kwargs)
    try:
        double = soup.call_double(soup.args, soup.kwargs)
    except RuntimeError:  # the model names float32 in its own code
        double = single
    return Draft(program, (soup.args, soup.kwargs), double, single, document, state)
