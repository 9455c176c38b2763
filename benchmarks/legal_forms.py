"""What each form buys that edgewright writes before ExecuTorch's XNNPACK sees a graph.

A case is a small network that holds the operation, between layers that the delegate takes, at a shape
from a published architecture. Its graph is lowered twice, with the form and without it, both checked in
float64, and the two programs are measured interleaved in one run, with the paired ratio and its 95%
interval. In brackets: delegates, and operations outside them.

    python benchmarks/legal_forms.py [FORM ...] [--work DIR] [--json FILE] [--write]

`--write` puts the table into docs/legal_forms.md. Programs and readings are kept in DIR, so that a
run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from shared import page
from torch import nn

from compiler.errors import NumericError
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.records import Artifact
from devices import open_device
from devices.benchmark import Candidate
from devices.benchmark import measure as run
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.artifact import files_digest
from edgewright.models import load_model
from edgewright.runtime import infer
from edgewright.stages import canonicalise
from profiles import load_profile
from targets import get_target
from targets.executorch.lower import lower

SEED = 7
WRONG = 1e-4  # of the largest result
SIDES = ("without", "with")


class Between(nn.Module):
    """A function of `[..., C]` or `[N, C, H, W]` between two layers that the delegate takes."""

    def __init__(self, first: nn.Module, inner: nn.Module, last: nn.Module) -> None:
        """Take the three parts."""
        super().__init__()
        self.first, self.inner, self.last = first, inner, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run them in order."""
        return self.last(self.inner(self.first(x)))  # type: ignore[no-any-return]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Keep it."""
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call it."""
        return self.function(x)


class ChannelNorm(nn.LayerNorm):
    """ConvNeXt's LayerNorm over the channels of an image (arXiv 2201.03545)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn, normalise, turn back."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelMlp(nn.Module):
    """ConvNeXt's block behind its depthwise convolution, on the last axis."""

    def __init__(self, width: int) -> None:
        """Make the layers."""
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn, normalise, expand, contract, scale, turn back."""
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
        return (self.scale * y).permute(0, 3, 1, 2)


class Rotary(nn.Module):
    """EVA-02's rotary embedding, interleaved (arXiv 2303.11331)."""

    def __init__(self, tokens: int, width: int) -> None:
        """Draw the angles."""
        super().__init__()
        angle = torch.randn(tokens, width)
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn each pair."""
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cosine + turned * self.sine


class Products(nn.Module):
    """The products of attention among `heads` heads, written out, over windows (Swin, arXiv 2103.14030)."""

    def __init__(self, heads: int) -> None:
        """Keep the number."""
        super().__init__()
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply rows, then mix them."""
        n, t, c = x.shape
        y = x.reshape(n, t, self.heads, c // self.heads).transpose(1, 2)
        return ((y @ y.transpose(-2, -1)).softmax(-1) @ y).transpose(1, 2).reshape(n, t, c)


class SelfAttention(nn.Module):
    """Attention among `heads` heads, with a bias for each pair of tokens where there are `biased` tokens."""

    def __init__(self, width: int, heads: int, biased: int = 0) -> None:
        """Keep the shape."""
        super().__init__()
        self.heads = heads
        self.register_buffer("bias", torch.randn(1, heads, biased, biased) if biased else None)
        self.project = nn.Linear(width, 3 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend."""
        n, t, c = x.shape
        q, k, v = self.project(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, self.bias).transpose(1, 2).reshape(n, t, c)


@dataclass(frozen=True)
class Case:
    """A network that one form changes."""

    form: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def graph(self) -> Graph:
        """Return the graph, its parameters drawn from the seed."""
        torch.manual_seed(SEED)
        return canonicalise(load_model(self.make().eval(), torch.randn(self.shape), randomize=SEED)).graph


def depthwise(channels: int) -> nn.Module:
    """Return a 3x3 depthwise convolution."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


def image(
    inner: Callable[[int], nn.Module], channels: int, size: int
) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """Return a part on images, and the shape of its input."""
    return lambda: Between(depthwise(channels), inner(channels), nn.Conv2d(channels, channels, 1)), (
        1,
        channels,
        size,
        size,
    )


def rows(inner: Callable[[], nn.Module], *shape: int) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """Return a part on tokens, and the shape of its input."""
    width = shape[-1]
    return lambda: Between(nn.Linear(width, width), inner(), nn.Linear(width, width)), shape


NORM = "aten.layer_norm.default"
CASES = (
    Case("channels_first", "LayerNorm of 40 channels, 56x56", *image(ChannelNorm, 40, 56)),
    Case("channels_first", "LayerNorm of 160 channels, 14x14", *image(ChannelNorm, 160, 14)),
    Case("channels_first", "ConvNeXt block of 96 channels, 56x56", *image(ChannelMlp, 96, 56)),
    Case("channels_first", "ConvNeXt block of 384 channels, 14x14", *image(ChannelMlp, 384, 14)),
    Case("turns", "rotary, 3 heads of 64, 256 tokens", lambda: Rotary(256, 64), (1, 3, 256, 64)),
    Case("turns", "rotary, 12 heads of 32, 256 tokens", lambda: Rotary(256, 32), (1, 12, 256, 32)),
    Case(NORM, "LayerNorm, 196 tokens of 192", *rows(lambda: nn.LayerNorm(192), 1, 196, 192)),
    Case(NORM, "LayerNorm, 4 x 256 tokens of 64", *rows(lambda: nn.LayerNorm(64), 4, 256, 64)),
    Case(NORM, "LayerNorm, 49 tokens of 768", *rows(lambda: nn.LayerNorm(768), 1, 49, 768)),
    Case(NORM, "LayerNorm, 56x56 of 96", *rows(lambda: nn.LayerNorm(96), 1, 56, 56, 96)),
    Case(
        "aten.scaled_dot_product_attention.default",
        "attention, 3 heads, 197 tokens of 192",
        *rows(lambda: SelfAttention(192, 3), 1, 197, 192),
    ),
    Case(
        "aten.scaled_dot_product_attention.default",
        "attention with a bias, 64 windows of 49 tokens, 3 heads of 32",
        *rows(lambda: SelfAttention(96, 3, 49), 64, 49, 96),
    ),
    Case(
        "aten.matmul.default",
        "products of 64 windows of 49 tokens, 3 heads of 32",
        *rows(lambda: Products(3), 64, 49, 96),
    ),
    Case(
        "aten.matmul.default",
        "products of 1 window of 49 tokens, 24 heads of 32",
        *rows(lambda: Products(24), 1, 49, 768),
    ),
    Case(
        "aten.group_norm.default",
        "GroupNorm of one group, 64 channels, 56x56",
        *image(lambda c: nn.GroupNorm(1, c), 64, 56),
    ),
    Case(
        "aten.mean.dim",
        "mean without its axes, 7x7 of 320",
        *image(lambda c: Function(lambda x: x * x.mean((2, 3))[:, :, None, None]), 320, 7),
    ),
    Case(
        "aten.adaptive_avg_pool2d.default",
        "squeeze and excite, 28x28 of 72",
        *image(lambda c: Function(lambda x: x * F.adaptive_avg_pool2d(x, 1)), 72, 28),
    ),
    Case("aten.hardsigmoid.default", "hardsigmoid, 28x28 of 72", *image(lambda c: nn.Hardsigmoid(), 72, 28)),
)


def row(case: Case, work: Path) -> dict[str, Any]:
    """Lower both sides, check them, measure them interleaved, and return a row of the table."""
    graph, target, profile = case.graph(), get_target("executorch"), load_profile("host")
    torch.manual_seed(SEED + 1)
    call = [torch.randn(case.shape)]
    wanted = evaluate(graph, call, torch.float64)[0]
    candidates, result = [], {"form": case.form, "case": case.name}
    for side in SIDES:
        folder = work / f"{case.form} {case.name}".replace(" ", "_") / side
        lowered = lower({"forward": graph}, folder, (case.form,) if side == "without" else ())
        artifact = Artifact(folder, {"artifact_digest": files_digest(folder, lowered.files)})
        found = infer(artifact, target, profile, [call])[0][0].double()
        result[side] = {
            "delegates": lowered.report["delegates"],
            "outside": lowered.report["outside_ops"],
            "max_relative_error": float((found - wanted).abs().max() / wanted.abs().max()),
        }
        if not result[side]["max_relative_error"] < WRONG:
            raise NumericError(f"{case.name} ({side}) is off by {result[side]['max_relative_error']:.1e}")
        label = f"{case.name} {side}"
        versions = {"target": target.name, **target.versions()}
        spec = target.run_spec(artifact, profile)
        candidates.append(Candidate(label, artifact.digest, side, "", spec, target=versions, series=label))
    with MeasurementDatabase(f"sqlite:///{work / 'measurements.sqlite'}") as database:
        readings = run(candidates, open_device("local"), profile, database)
    for side, reading in zip(SIDES, readings, strict=True):
        result[side] |= {"median_us": reading.statistics.median / 1e3, "stable": reading.stable}
    paired = ratio(readings[0].rounds, readings[1].rounds)
    return result | {"without_over_with": [paired.value, paired.low, paired.high]}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| form | case | without, us | with, us | without ÷ with | error with |",
        "|---|---|---|---|---|---|",
    ]
    for r in found:
        times = [_time(r[side]) for side in SIDES]
        value, low, high = r["without_over_with"]
        cells = [r["form"], r["case"], *times, f"{value:.2f} [{low:.2f}, {high:.2f}]"]
        lines.append(f"| {' | '.join(cells)} | {r['with']['max_relative_error']:.0e} |")
    return "\n".join(lines)


def _time(side: dict[str, Any]) -> str:
    mark = "" if side["stable"] else " (unstable)"
    return f"{side['median_us']:.0f} [{side['delegates']}, {side['outside']}]{mark}"


def main() -> None:
    """Lower, measure and print."""
    forms = list(dict.fromkeys(case.form for case in CASES))
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("forms", nargs="*", help=f"{', '.join(forms)}; all by default")
    parser.add_argument("--work", type=Path, default=Path("build/legal_forms"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/legal_forms.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.forms) - set(forms):
        parser.error(f"no such form: {', '.join(sorted(unknown))}; there are {', '.join(forms)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = []
    for case in (c for c in CASES if not arguments.forms or c.form in arguments.forms):
        print(case.name, file=sys.stderr)
        found.append(row(case, arguments.work))
    if arguments.json:
        document = {"schema": "edgewright.benchmark.legal_forms/1", "rows": found}
        arguments.json.write_text(json.dumps(document, indent=1))
    print(table(found))
    if arguments.write:
        page.write("legal_forms", "Forms written for XNNPACK", str(__doc__), table(found))


if __name__ == "__main__":
    main()
