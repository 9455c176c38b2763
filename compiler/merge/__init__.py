"""Exact merges by algebra: affine regions are evaluated to one form and emitted in the cheapest way."""

from compiler.merge.attempt import Attempt, Exactness, Outcome, Refusal
from compiler.merge.whole import merge

__all__ = ["Attempt", "Exactness", "Outcome", "Refusal", "merge"]
