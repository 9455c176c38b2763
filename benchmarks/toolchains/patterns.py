"""The eight patterns, exported twice: as torch leaves them (stock) and merged by edgewright (ours).

For each pattern a folder with `stock.pt2`, `ours.pt2` (both `torch.export.save`) and `data.npz`: the
input `x` (float32) and `reference`, torch's own output in float64. Weights and BatchNorm statistics
are random. `patterns.json` beside them lists names, ideal counts and shapes.

Sizes. Spatial patterns see 1x32x28x28 (the 1x1 chain 1x16x28x28), token patterns 1x196 rows. The
low-rank FFN is 64 -> 256 -> 64 at rank 64: above the break-even rank 64*256 / (64+256) = 51.2 a
factored layer costs more multiply-accumulates than the dense one, so the two merged layers are the
ideal. Below that rank, edgewright keeps the factors, and that would be the ideal.

Submodules have names, since stock ExecuTorch fails to fold a BatchNorm into a weight whose name
begins with a digit, as that of an unnamed `nn.Sequential` does.

    python patterns.py FOLDER [PATTERN ...]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SEED = 20


class ConvNorm(nn.Sequential):
    """A convolution without bias, and its BatchNorm."""

    def __init__(self, channels: int, kernel: int) -> None:
        """Keep channels and size."""
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels)))


class Branches(nn.Module):
    """The sum of branches of one input."""

    def __init__(self, *branches: nn.Module) -> None:
        """Take the branches in the order they are added."""
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class Lora(nn.Module):
    """`W x + 2 B A x`, W 64x64, rank 8 (Hu et al., "LoRA", ICLR 2022)."""

    def __init__(self) -> None:
        """Make W, A and B; only W has a bias."""
        super().__init__()
        self.base = nn.Linear(64, 64)
        self.down = nn.Linear(64, 8, bias=False)
        self.up = nn.Linear(8, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted layer's output."""
        out: Tensor = self.base(x) + 2.0 * self.up(self.down(x))
        return out


def low_rank_ffn() -> nn.Module:
    """Return 64 -> 256 -> 64 with GELU, each layer a pair of factors of rank 64."""
    first = chain(nn.Linear(64, 64, bias=False), nn.Linear(64, 256))
    second = chain(nn.Linear(256, 64, bias=False), nn.Linear(64, 64))
    return nn.Sequential(OrderedDict(first=first, act=nn.GELU(), second=second))


def chain(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """Return two modules in a row."""
    return nn.Sequential(OrderedDict(first=first, second=second))


def conv(height: int, width: int) -> nn.Conv2d:
    """Return a 32-channel convolution with bias that keeps the size."""
    return nn.Conv2d(32, 32, (height, width), padding=(height // 2, width // 2))


@dataclass(frozen=True)
class Pattern:
    """One row: its title, how many conv, linear and matmul operations suffice, and how to build it."""

    name: str
    title: str
    ideal: int
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]


IMAGE, TOKENS = (1, 32, 28, 28), (1, 196, 64)
PATTERNS = (
    Pattern("conv_bn", "conv+BN, control", 1, IMAGE, lambda: ConvNorm(32, 3)),
    Pattern(
        "repvgg",
        "RepVGG 3x3+1x1+id, BN each",
        1,
        IMAGE,
        lambda: Branches(ConvNorm(32, 3), ConvNorm(32, 1), nn.BatchNorm2d(32)),
    ),
    Pattern(
        "repvgg_no_bn",
        "RepVGG without BN",
        1,
        IMAGE,
        lambda: Branches(conv(3, 3), conv(1, 1), nn.Identity()),
    ),
    Pattern("acb", "ACB 3x3+1x3+3x1", 1, IMAGE, lambda: Branches(conv(3, 3), conv(1, 3), conv(3, 1))),
    Pattern(
        "conv_chain",
        "1x1→1x1 conv chain 16-64-16",
        1,
        (1, 16, 28, 28),
        lambda: chain(nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)),
    ),
    Pattern(
        "linear_chain",
        "linear→linear 16-64-16",
        1,
        (1, 196, 16),
        lambda: chain(nn.Linear(16, 64), nn.Linear(64, 16)),
    ),
    Pattern("low_rank_ffn", "low-rank FFN 64-256-64, rank 64", 2, TOKENS, low_rank_ffn),
    Pattern("lora", "LoRA branch Wx+2BAx, rank 8", 1, TOKENS, Lora),
)


def built(pattern: Pattern) -> tuple[nn.Module, Tensor]:
    """Return the pattern's module in eval, with random statistics, and its input."""
    torch.manual_seed(SEED)
    module = pattern.build()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 2.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval(), torch.randn(pattern.shape)


def merged(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """Return the module merged by edgewright, as an exported program."""
    from compiler.export import export_graph
    from compiler.frontends.torch_export import import_model
    from compiler.merge import merge
    from compiler.passes import PIPELINE

    graph = import_model(module, (x,))
    for _, run in PIPELINE:
        graph = run(graph)
    graph, _ = merge(graph)
    return export_graph(graph)


def write(pattern: Pattern, folder: Path) -> None:
    """Write the pattern's two programs, its input and its reference."""
    folder.mkdir(parents=True, exist_ok=True)
    module, x = built(pattern)
    with torch.no_grad():
        reference = copy.deepcopy(module).double()(x.double())
    torch.export.save(torch.export.export(module, (x,)), folder / "stock.pt2")
    torch.export.save(merged(module, x), folder / "ours.pt2")
    np.savez(folder / "data.npz", x=x.numpy(), reference=reference.numpy())


def main() -> None:
    """Write the patterns asked for, and `patterns.json`."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for pattern in PATTERNS:
        print(f"exporting {pattern.name}", file=sys.stderr)
        write(pattern, arguments.folder / pattern.name)
    rows = [{"name": p.name, "title": p.title, "ideal": p.ideal, "shape": p.shape} for p in PATTERNS]
    (arguments.folder / "patterns.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
