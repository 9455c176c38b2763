r"""Text that the model finds likely, distinct and long enough, as POINTS filters its data (Liu et al. 2024).

The perplexity of a sequence :math:`x_1 \dots x_T` is the exponential of its mean surprise,

    :math:`\frac{1}{T-1} \sum_{t=2}^{T} -\log p(x_t \mid x_{<t}),`

under the model itself. Of the sequences that are distinct and no shorter than a quarter of the longest,
the half of lowest surprise is kept, more where more are wanted, and the choice is random among those.
This is the opposite of taking hard samples: it drops garbage. Padding behind a sequence, by the mask
that the model is given or else a last token that repeats, counts neither as length nor as surprise.

Only for models that predict the next token: one whose answer at a token changes with a later token sees
what it should predict, and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.errors import UsageError
from compiler.search.calibration_selection import Call

FACT = "surprise"
LABELLED = False
KEPT = 0.5
SHORTEST = 0.25  # of the longest sequence
_SEES = 1e-3  # of the largest logit: a change beyond rounding


def observe(calls: Iterable[Call]) -> NDArray[np.float64]:
    """Return [N, 3]: each sequence's mean surprise in nats, its length in tokens, a number of its content.

    Raises UsageError where the model does not predict next tokens.
    """
    facts = []
    for index, call in enumerate(calls):
        logits, tokens, counted = _sequences(call)
        if index == 0:
            _check_causal(call, tokens)
        surprise = mean_surprise(logits, tokens, counted)
        content = [_content(t[c]) for t, c in zip(tokens, counted, strict=True)]
        facts.append(np.stack([surprise.numpy(), counted.sum(1).numpy(), np.array(content)], 1))
    return np.concatenate(facts)


def select(facts: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` of the likely sequences; raises UsageError where too few are distinct and long."""
    usable = first_of_each(facts[:, 2])
    usable = usable[facts[usable, 1] >= SHORTEST * facts[:, 1].max()]
    if len(usable) < count:
        raise UsageError(
            f"of {len(facts)} sequences {len(usable)} are distinct and at least {SHORTEST:.0%} as long as "
            f"the longest, {count} are asked for: give more text, or ask for {len(usable)} or fewer"
        )
    kept = usable[lowest(facts[usable, 0], max(KEPT, count / len(usable)))]
    return random.choice(kept, count, replace=False)


def lowest(scores: NDArray[np.float64], fraction: float) -> NDArray[np.int64]:
    """Return the places of the lowest scores, exactly the asked fraction of them, rounded; ties by place."""
    places: NDArray[np.int64] = np.sort(np.argsort(scores, kind="stable")[: round(fraction * len(scores))])
    return places


def first_of_each(contents: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the places at which a content is met for the first time."""
    places: NDArray[np.int64] = np.sort(np.unique(contents, return_index=True)[1])
    return places


def mean_surprise(logits: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean of -log p of each next token [N], float64, over the tokens [N, T] that are counted.

    0 where there is no next token.
    """
    logs = torch.log_softmax(logits.double(), -1)[:, :-1]
    next_ = -logs.gather(-1, tokens[:, 1:, None].long())[..., 0]
    both = counted[:, 1:] & counted[:, :-1]
    return torch.where(both, next_, 0).sum(1) / both.sum(1).clamp_min(1)


def counted_tokens(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return which tokens [N, T] are text: those of the mask, else all before the last token's repeats."""
    if mask is not None:
        return mask.bool()
    changes = (tokens != tokens[:, -1:]).int()
    end = tokens.shape[1] - changes.flip(1).cumsum(1).eq(0).sum(1)  # where the run of the last token starts
    return torch.arange(tokens.shape[1])[None] <= end[:, None]


def _sequences(call: Call) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits [N, T, V], tokens [N, T] and which of those are counted."""
    logits = next((t for t in call.answer.outputs if t.dim() == 3), None)
    whole = [t for t in call.inputs if not t.is_floating_point() and not t.is_complex()]
    fitting = [t for t in whole if logits is not None and t.shape == logits.shape[:2] and t.shape[1] > 1]
    if logits is None or not fitting or int(fitting[0].max()) >= logits.shape[2]:
        raise UsageError(
            "selection by perplexity needs a model of tokens [N, T] that gives logits [N, T, V] of the next "
            "ones, T at least 2; select by clusters or at random"
        )
    masks = (t for t in fitting[1:] if bool(((t == 0) | (t == 1)).all() and t.any()))
    return logits, fitting[0], counted_tokens(fitting[0], next(masks, None))


def _check_causal(call: Call, tokens: torch.Tensor) -> None:
    """Refuse a model whose answer before the last token depends on that token."""
    before = next(t for t in call.answer.outputs if t.dim() == 3)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % before.shape[2]
    after = next(
        t for t in call.run([other if t is tokens else t for t in call.inputs]).outputs if t.dim() == 3
    )
    if float((after - before)[:, :-1].abs().max()) > _SEES * float(before.abs().max()):
        raise UsageError(
            "the model's answer at a token changes with later tokens, so its perplexity says nothing: it "
            "does not predict the next token. Select by clusters or at random"
        )


def _content(tokens: torch.Tensor) -> float:
    """Return 52 bits of a digest, which a float holds exactly."""
    digest = hashlib.sha256(tokens.long().contiguous().numpy().tobytes()).digest()
    return float(int.from_bytes(digest[:8], "big") >> 12)
