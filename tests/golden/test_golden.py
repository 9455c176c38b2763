"""Golden pairs: text IR in, text IR out, by pass. `pytest --update-golden` rewrites them: read the diff.

Each file is `# pass: NAME`, the input, a line `---`, the expected output. Constants are drawn by
name from a seed; their digests are printed as `...`, since their last bits may differ by machine.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
import torch

from compiler.evaluate import evaluate
from compiler.export import example_inputs
from compiler.ir.graph import Graph, TensorType
from compiler.ir.text import parse_graph, print_graph
from compiler.ir.verify import verify
from compiler.merge import merge
from compiler.passes import PIPELINE

PASSES = dict(PIPELINE) | {"merge": lambda graph: merge(graph)[0]}
FILES = sorted(Path(__file__).parent.glob("*.txt"))


def drawn(name: str, type_: TensorType) -> torch.Tensor:
    """Return a constant drawn from its name; variances are positive."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    tensor = torch.randn([int(d) for d in type_.shape], generator=generator, dtype=type_.dtype)
    return tensor.abs() + 0.2 if "var" in name else tensor


def masked(graph: Graph) -> str:
    """Return the text of a graph without digests."""
    return re.sub(r'(constant|state) "\w+"', r'\1 "..."', print_graph(graph))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    header, _, body = path.read_text().partition("\n")
    name = re.fullmatch(r"# pass: (\w+)", header)
    assert name, f"{path.name}: the first line must be `# pass: NAME`"
    source, _, expected = body.partition("\n---\n")
    graph = parse_graph(source.replace('"..."', '"0"'), drawn)
    verify(graph)
    result = PASSES[name[1]](graph)
    verify(result)
    inputs = example_inputs(graph)
    for a, b in zip(
        evaluate(graph, inputs, torch.float64), evaluate(result, inputs, torch.float64), strict=True
    ):
        assert (a - b).abs().max() <= 1e-6 * a.abs().max()
    assert masked(PASSES[name[1]](result)) == masked(result), "not idempotent"
    if request.config.getoption("--update-golden"):
        path.write_text(f"{header}\n{source}\n---\n{masked(result)}")
    else:
        assert masked(result) == expected
