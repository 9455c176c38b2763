"""What a search reads from samples: how far variants move the outputs, and how often they are right.

The float model and many variants run side by side, each variant only from where it departs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.ir.graph import Graph
from compiler.search.label_gate import LabelGate, Verdict
from compiler.search.output_cost import CostKind, Terms, call_terms, floating, output_names, total_costs
from compiler.search.shared_evaluation import base_evaluation, evaluate_variants, variant_evaluation
from edgewright.search_samples import Sample, rows
from edgewright.search_steps import counted
from edgewright.stages import Progress

K = TypeVar("K")


@dataclass(frozen=True)
class CostReader:
    """Reads costs of variants of one float graph."""

    graph: Graph
    kind: CostKind
    progress: Progress

    def read(
        self, variants: Mapping[K, Graph], samples: Sequence[Sample], label: str
    ) -> dict[K, NDArray[np.float64]]:
        """Return each variant's cost of each sample; raises NumericError where outputs are not finite."""
        if not variants:
            return {}
        many = f" of {len(variants)} variants" if len(variants) > 1 else ""
        tell = counted(self.progress, f"{label}{many}")
        base = base_evaluation(self.graph)
        evaluations = {k: variant_evaluation(self.graph, graph) for k, graph in variants.items()}
        terms: dict[K, list[Terms]] = {k: [] for k in variants}
        batch, names = rows(samples[0]), output_names(self.graph)
        for done, sample in enumerate(samples):
            own, others = evaluate_variants(base, evaluations, sample)
            for key, results in others.items():
                outputs = floating(own), floating(results)
                terms[key].append(call_terms(*outputs, self.kind, batch, names, done * batch))
            tell(done + 1, len(samples))
        return {k: total_costs(found) for k, found in terms.items()}

    def judge(self, variant: Graph, gate: LabelGate) -> Verdict:
        """Return what labels say of a variant beside the float graph."""
        base, other = base_evaluation(self.graph), variant_evaluation(self.graph, variant)
        reference: list[torch.Tensor] = []
        found: list[torch.Tensor] = []
        for sample in gate.inputs:
            own, others = evaluate_variants(base, {"variant": other}, sample)
            reference.append(floating(own)[0])
            found.append(floating(others["variant"])[0])
        return gate.judge(reference, found)
