"""A program of several methods: each runs at its own size, and what they share is stored once."""

import copy

import pytest
import torch

from compiler.errors import UnsupportedModelError
from compiler.ir.constants import constant_bytes
from targets import get_target
from targets.executorch import lower as lowering
from targets.executorch.legalise import legalise
from tests.targets.conftest import PROFILE
from tests.targets.functions import Tokens, tokens

TARGET = get_target("executorch")
SIZES = {"forward_t1": 1, "forward_t5": 5}
WIDTH = 64


@pytest.fixture
def graphs(imports):
    """One graph a size, of two copies of the model: equal constants are not the same tensors."""
    torch.manual_seed(1)
    model = Tokens(WIDTH).eval()
    return {name: imports(copy.deepcopy(model), tokens(size)) for name, size in SIZES.items()}


def test_each_method_runs_at_its_own_size(graphs, lower_methods):
    program = lower_methods(TARGET, graphs)
    for name, size in SIZES.items():
        assert program[name].error(tokens(size)) < 1e-5
        assert program[name].infer(tokens(size))[0].shape == (1, size, WIDTH)


def test_the_first_method_runs_where_none_is_asked_for(graphs, lower_methods):
    program = lower_methods(TARGET, dict(reversed(graphs.items())))["forward_t1"]
    program.method = None
    assert program.infer(tokens(5))[0].shape == (1, 5, WIDTH)


def test_a_method_there_is_not_is_told_with_those_there_are(graphs, lower_methods):
    program = lower_methods(TARGET, graphs)["forward_t1"]
    program.method = "forward_t9"
    answers, code = program.talk()
    assert code == 1 and "'forward_t9'; it has forward_t1, forward_t5" in answers[0]["error"]


def test_constants_of_equal_content_are_stored_once(graphs, lower, lower_methods):
    both = lower_methods(TARGET, graphs)["forward_t1"].report
    alone = [lower(TARGET, graph).report["program_bytes"] for graph in graphs.values()]
    stored = constant_bytes([legalise(graphs["forward_t1"])])  # the forms have constants of their own
    assert stored > 100_000
    assert {m["constant_bytes"] for m in both["methods"].values()} == {stored}
    assert both["shared_bytes"] == stored
    saved = sum(alone) - both["program_bytes"]
    assert abs(saved - both["shared_bytes"]) < 0.1 * stored


def test_constants_of_other_content_are_stored_each(imports, lower_methods):
    torch.manual_seed(1)
    first, second = Tokens(WIDTH).eval(), Tokens(WIDTH).eval()
    graphs = {"forward_t1": imports(first, tokens(1)), "forward_t5": imports(second, tokens(5))}
    report = lower_methods(TARGET, graphs)["forward_t1"].report
    assert report["shared_bytes"] < 0.01 * constant_bytes([graphs["forward_t1"]])
    assert report["program_bytes"] > 2 * constant_bytes([graphs["forward_t1"]])


def test_the_report_tells_the_method_of_what_fell_outside(graphs, lower_methods):
    report = lower_methods(TARGET, graphs)["forward_t1"].report
    assert {row["method"] for row in report["outside"]} == set(SIZES)
    by_method = {n: sum(r["count"] for r in report["outside"] if r["method"] == n) for n in SIZES}
    assert by_method == {n: m["outside_ops"] for n, m in report["methods"].items()}
    assert report["outside_ops"] == sum(by_method.values()) > 0


def test_a_failure_names_the_node_of_a_later_method(graphs, monkeypatch, tmp_path):
    name = next(n.name for n in graphs["forward_t5"].ops() if n.op == "aten.gelu.default")

    def breaks(programs):
        raise RuntimeError(f"no kernel for {name}")

    monkeypatch.setattr(lowering, "_partition", breaks)
    with pytest.raises(UnsupportedModelError, match=f"at node {name!r}"):
        TARGET.lower(graphs, PROFILE, tmp_path)
