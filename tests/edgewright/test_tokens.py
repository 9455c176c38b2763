"""Methods at several token counts: the axis they size, what is refused, and merges within a bound on bytes."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import edgewright.check
import edgewright.recipe
from compiler.errors import InfeasibleBudgetError, NumericError, UsageError
from compiler.evaluate import evaluate
from compiler.ir.constants import constant_bytes, shared_bytes
from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.merge.attempt import Attempt, Outcome, Work
from compiler.plan import Decision, Plan
from edgewright.artifact import method_entry, read_artifact
from edgewright.compilation import compile
from edgewright.explanation import explain
from edgewright.models import InputSpec, LoadedModel, parse_input
from edgewright.models.tokens import load_methods, parse_tokens
from edgewright.stages import Prepared, Stage
from edgewright.token_methods import OversizeError, build_within, merge_within, reversions

WIDTH = 6


class Feedforward(nn.Module):
    """A linear layer over tokens, and an embedding of their ids."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, ids):
        return torch.relu(self.layer(x + self.table(ids)))


def example(tokens=3):
    return torch.randn(2, tokens, WIDTH) * 3 + 1, torch.randint(0, 9, (2, tokens))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def module():
    return Feedforward().eval()


# --- the axis


def test_the_second_axis_of_every_input_is_sized(module):
    loaded = load_methods(module, example(), (1, 7))
    assert list(loaded) == ["forward_t1", "forward_t7"]
    assert [[tuple(a.shape) for a in m.args] for m in loaded.values()] == [
        [(2, 1, WIDTH), (2, 1)],
        [(2, 7, WIDTH), (2, 7)],
    ]
    assert loaded["forward_t7"].args[1].max() < 9, "ids stay inside the vocabulary"
    assert all(m.source is module for m in loaded.values()), "the weights are the same tensors"


def test_a_t_marks_another_axis(module):
    class Last(nn.Module):
        def forward(self, x, scale):
            return x.mean(0) * scale

    specs = [parse_input("4x3xT"), parse_input("1")]
    loaded = load_methods(Last().eval(), specs, (2, 5))
    assert [tuple(m.args[0].shape) for m in loaded.values()] == [(4, 3, 2), (4, 3, 5)]
    assert all(tuple(m.args[1].shape) == (1,) for m in loaded.values())


def test_the_axis_is_read_and_needs_a_size():
    assert parse_input("ids=1xT:int64") == InputSpec((1, 0), torch.int64, "ids", (1,))
    assert parse_input("TxT").at(4) == InputSpec((4, 4))
    with pytest.raises(UsageError, match="give --tokens"):
        load_methods(nn.Identity().eval(), [parse_input("1xTx4")], ())


def test_without_counts_there_is_one_method(module):
    loaded = load_methods(module, example(), ())
    assert list(loaded) == ["forward"] and loaded["forward"].args[0].shape[1] == 3


@pytest.mark.parametrize("inputs", [[InputSpec((1, 4))], [parse_input("2x2"), parse_input("7")]])
def test_inputs_without_a_t_are_refused(inputs):
    with pytest.raises(UsageError, match="write T in its place"):
        load_methods(nn.Identity().eval(), inputs, (1,))


def test_inputs_without_a_second_axis_are_refused():
    with pytest.raises(UsageError, match=r"axis 1 of every input of rank 2.*5:float32.*1xTx512"):
        load_methods(nn.Identity().eval(), torch.randn(5), (1,))


def test_a_size_the_model_refuses_is_told():
    with pytest.raises(UsageError, match=r"does not run on 1x8x8x8.*--tokens 8 was put in axis 1"):
        load_methods(nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8), (3, 8))


def test_a_program_of_one_size_is_refused_and_one_of_many_is_fixed(module):
    fixed = torch.export.export(module, example())
    dim = torch.export.Dim("tokens", min=1, max=64)
    open_ = torch.export.export(module, example(), dynamic_shapes=({1: dim}, {1: dim}))
    with pytest.raises(UsageError, match="exported at other sizes and does not run on 2x8x6"):
        load_methods(fixed, example(), (8,))
    loaded = load_methods(open_, example(), (2, 8))
    inputs = [n.meta["val"].shape for n in loaded["forward_t8"].source.graph.nodes if n.op == "placeholder"]
    assert inputs[-2:] == [(2, 8, WIDTH), (2, 8)]


def test_a_dynamic_batch_and_a_frozen_input_go_along(module):
    specs = [parse_input(f"1xTx{WIDTH}"), parse_input("1xT:int64")]
    for inputs in (specs, example()):
        loaded = load_methods(module, inputs, (2, 4), dynamic_batch=True)["forward_t4"]
        assert loaded.args[0].shape == (2, 4, WIDTH) and loaded.batch is not None

    class Shifted(nn.Module):
        def forward(self, x, shift):
            return x + shift

    specs = [parse_input(f"1xTx{WIDTH}"), parse_input(f"{WIDTH}")]
    loaded = load_methods(Shifted().eval(), specs, (2, 4), freeze={"shift": torch.full((WIDTH,), 2.5)})
    assert [len(m.args) for m in loaded.values()] == [1, 1]
    x = loaded["forward_t4"].args[0]
    assert torch.equal(loaded["forward_t4"].call((x,), {})[0], x + 2.5)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1,1", "a", "-1", "1.5", "1,2,"])
def test_other_texts_are_no_counts(text):
    with pytest.raises(UsageError, match="--tokens"):
        parse_tokens(text)
    assert parse_tokens("1, 128") == (1, 128)


# --- the program


class TorchTarget:
    """Runs the graphs it lowered with torch; those of the method in `wrong` are off."""

    name = "executorch"
    folds_at_load = False
    depthwise_taps = None
    precisions = ("float32", "int8")
    wrong = ""
    extra = 100

    def installed(self):
        return None

    def versions(self):
        return {"torch": torch.__version__}

    def lower(self, methods, profile, folder):
        self.graphs = dict(methods)
        (folder / "model.bin").write_bytes(bytes(constant_bytes(methods.values()) + self.extra))

        class Lowered:
            files = ("model.bin",)
            report = {"outside": [{"op": "aten.sin", "count": 1, "method": m} for m in methods]}  # noqa: RUF012

        return Lowered

    def infer(self, artifact, target, profile, calls, fresh=False, method=None):
        error = 0.1 if method == self.wrong else 0.0
        return [[r + error for r in evaluate(self.graphs[method], call)] for call in calls]


@pytest.fixture
def target(monkeypatch):
    one = TorchTarget()
    monkeypatch.setattr(edgewright.recipe, "get_target", lambda name: one)
    monkeypatch.setattr(edgewright.check, "infer", one.infer)
    return one


def test_each_method_is_described_and_verified_at_its_own_size(target, module, tmp_path):
    artifact = compile(module, inputs=example(), tokens=(1, 8), out=tmp_path / "out")
    manifest = read_artifact(tmp_path / "out").manifest
    assert manifest == artifact.manifest
    assert [m["name"] for m in manifest["methods"]] == ["forward_t1", "forward_t8"]
    assert [m["inputs"][0]["shape"] for m in manifest["methods"]] == [[2, 1, WIDTH], [2, 8, WIDTH]]
    first, second = (m["graph_digest"] for m in manifest["methods"])
    assert first != second
    assert {c["method"] for c in manifest["verification"]["comparisons"]} == {"forward_t1", "forward_t8"}
    assert (tmp_path / "out" / "graph_forward_t8.txt").is_file()
    assert list(explain(tmp_path / "out")["operations"]) == ["forward_t1", "forward_t8"]
    assert method_entry(artifact)["name"] == "forward_t1"
    assert method_entry(artifact, "forward_t8")["outputs"][0]["shape"] == [2, 8, WIDTH]
    with pytest.raises(UsageError, match="no method 'forward'; it has forward_t1, forward_t8"):
        method_entry(artifact, "forward")


def test_a_method_that_computes_something_else_is_named(target, module, tmp_path):
    target.wrong = "forward_t8"
    with pytest.raises(NumericError, match=r"method forward_t8.*first differ at stage 'lower:executorch'"):
        compile(module, inputs=example(), tokens=(1, 8), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_fallback_is_counted_for_each_method_by_itself(target, module, tmp_path):
    assert compile(module, inputs=example(), tokens=(1, 8), out=tmp_path / "out", max_fallback=1)


def test_both_methods_share_their_constants(target, module, tmp_path):
    compile(module, inputs=example(), tokens=(1, 8), out=tmp_path / "out")
    alone = constant_bytes([target.graphs["forward_t8"]])
    assert alone > 4 * WIDTH * WIDTH
    assert constant_bytes(target.graphs.values()) == shared_bytes(target.graphs) == alone


def test_a_plan_goes_with_one_size(target, module, tmp_path):
    plan = Plan((Decision("segment:layer", "precision", "int8"),))
    with pytest.raises(UsageError, match="give --tokens or --plan, not both"):
        compile(module, inputs=example(), tokens=(1, 8), plan=plan, out=tmp_path / "out")


def test_a_program_above_the_bound_is_refused_with_its_size(target, module, tmp_path):
    size = compile(module, inputs=example(), tokens=(1, 8), out=tmp_path / "a").manifest["sizes_bytes"]
    total = sum(size.values())
    with pytest.raises(InfeasibleBudgetError, match=rf"{total} bytes at the least.*allows {total - 1}"):
        compile(module, inputs=example(), tokens=(1, 8), max_bytes=total - 1, out=tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    fits = compile(module, inputs=example(), tokens=(1, 8), max_bytes=total, out=tmp_path / "b")
    assert fits.manifest["max_bytes"] == total and fits.manifest["kept_factored"] == []


# --- the bound


@dataclass(frozen=True)
class Site:
    """A low-rank layer of a made-up model; `gain` is the price that merging saves, by method."""

    name: str
    width: int
    rank: int
    gain: dict[str, float]
    priced_by: str = "the prior"

    @property
    def dense(self):
        return 4 * self.width * self.width

    @property
    def factors(self):
        return 8 * self.width * self.rank


def graph_of(sites, tokens, dense=()):
    """A graph with a linear for each site in `dense` and two for each other."""
    editor = Editor()
    for site in sites:
        generator = torch.Generator().manual_seed(site.width)
        down, up = (
            torch.randn(s, generator=generator) for s in ((site.rank, site.width), (site.width, site.rank))
        )
        value = editor.input(f"x_{site.name}", TensorType((tokens, site.width), torch.float32))
        if site.name in dense:
            value = linear(editor, value, up @ down, tokens, site.name, "whole")
        else:
            value = linear(editor, value, down, tokens, f"{site.name}.down", "down")
            value = linear(editor, value, up, tokens, f"{site.name}.up", "up")
        editor.output([value]) if site is sites[-1] else None
    return editor.finish()


def linear(editor, value, weight, tokens, origin, role):
    name = f"{origin.split('.')[0]}_{role}"
    constant = editor.constant(weight, f"{name}_weight", origin)
    type_ = TensorType((tokens, weight.shape[0]), torch.float32)
    operands = {"input": value, "weight": constant, "bias": None}
    return editor.op("aten.linear.default", operands, (type_,), name, origin)


class Engine:
    """Merges the sites that gain something, unless they are kept; counts how often it was asked."""

    def __init__(self, *sites):
        self.sites, self.calls = sites, 0

    def sources(self):
        methods = {m for s in self.sites for m in s.gain}
        return [self.source(m) for m in sorted(methods)]

    def source(self, method):
        graph = graph_of(self.sites, int(method.removeprefix("t")))
        model = LoadedModel(nn.Identity(), ())
        return Prepared(model, (Stage("canonical", graph, 0.0),), method=method)

    def __call__(self, source, keep):
        self.calls += 1
        assert self.calls < 50, "the search does not end"
        taken = [s for s in self.sites if s.gain[source.method] > 0 and s.name not in keep]
        graph = graph_of(self.sites, int(source.method.removeprefix("t")), [s.name for s in taken])
        attempts = tuple(self.attempt(s, source.method) for s in taken)
        return Prepared(source.model, (*source.stages, Stage("merge", graph, 0.0)), attempts, source.method)

    def attempt(self, site, method):
        nodes = (f"{site.name}_down", f"{site.name}_up")
        before = Work(("linear", "linear"), macs=1e6 * site.gain[method], cost=site.gain[method])
        return Attempt(
            site.name, "x", nodes[-1], nodes, Outcome.MERGED, "", before=before, after=Work(("linear",)),
            priced_by=site.priced_by,
        )  # fmt: skip


BIG = Site("big", 40, 8, {"t1": 30.0, "t64": 0.0})  # both forms are held: going back saves all of dense
EVEN = Site("even", 32, 4, {"t1": 5.0, "t64": 5.0})  # dense in both: going back brings the factors
WIDE = Site("wide", 24, 20, {"t1": 0.1, "t64": 0.1})  # its factors are larger than dense


def test_without_a_bound_each_method_takes_its_cheaper_form():
    engine = Engine(BIG, EVEN, WIDE)
    fitted = merge_within(engine.sources(), None, engine)
    assert fitted.kept == frozenset() and engine.calls == 2
    assert fitted.bytes == BIG.dense + BIG.factors + EVEN.dense + WIDE.dense


def test_what_going_back_saves_counts_what_is_shared_and_what_returns():
    engine = Engine(BIG, EVEN, WIDE)
    found = reversions(engine.sources(), merge_within(engine.sources(), None, engine))
    assert {r.site: r.saved_bytes for r in found} == {"big": BIG.dense, "even": EVEN.dense - EVEN.factors}
    assert {r.site: r.loss for r in found} == {"big": 30.0, "even": 10.0}


def test_the_least_loss_per_byte_goes_back_first():
    engine = Engine(BIG, EVEN, WIDE)
    whole = merge_within(engine.sources(), None, engine).bytes
    assert 30.0 / BIG.dense > 10.0 / (EVEN.dense - EVEN.factors)
    fitted = merge_within(engine.sources(), whole - 1, engine)
    assert fitted.kept == {"even"} and fitted.bytes == whole - EVEN.dense + EVEN.factors
    cheap = Site("big", 40, 8, {"t1": 12.0, "t64": 0.0})
    assert cheap.gain["t1"] > 10.0, "more loss, but less of it per byte"
    engine = Engine(cheap, EVEN, WIDE)
    assert merge_within(engine.sources(), whole - 1, engine).kept == {"big"}
    assert merge_within(engine.sources(), whole - cheap.dense - 1, engine).kept == {"big", "even"}


def test_prices_of_several_kinds_are_not_added():
    """The table's nanoseconds beside the prior's multiply-accumulates: the prior ranks both."""
    measured = Site("big", 40, 8, {"t1": 1.0, "t64": 0.0}, "a table")
    unlike = Site("even", 32, 4, {"t1": 2.0, "t64": 0.0})
    engine = Engine(measured, unlike)
    losses = {
        r.site: r.loss for r in reversions(engine.sources(), merge_within(engine.sources(), None, engine))
    }
    assert losses["big"] == pytest.approx(1.02e6) and losses["even"] == pytest.approx(2.02e6)


def test_the_smallest_form_is_returned_where_the_bound_cannot_be_met():
    engine = Engine(BIG, EVEN, WIDE)
    fitted = merge_within(engine.sources(), 1, engine)
    assert fitted.kept == {"big", "even"}
    assert fitted.bytes == BIG.factors + EVEN.factors + WIDE.dense


def test_an_engine_that_keeps_nothing_ends_the_search():
    engine = Engine(BIG, EVEN)
    fitted = merge_within(engine.sources(), 1, lambda source, keep: engine(source, ()))
    assert fitted.kept == {"big", "even"} and fitted.bytes > 1


class Writer:
    """Builds programs that take more than their constants."""

    def __init__(self, most, overhead):
        self.most, self.overhead, self.sizes = most, overhead, []

    def __call__(self, fitted):
        size = fitted.bytes + self.overhead
        self.sizes.append(size)
        assert len(self.sizes) < 10, "the search does not end"
        if size > self.most:
            raise OversizeError(size, self.most)
        return fitted


def test_the_program_itself_is_bounded_not_its_constants():
    engine = Engine(BIG, EVEN, WIDE)
    whole = merge_within(engine.sources(), None, engine).bytes
    writer = Writer(whole, overhead=10)
    assert build_within(engine.sources(), whole, engine, writer).kept == {"even"}
    assert len(writer.sizes) == 2 and writer.sizes[0] > whole >= writer.sizes[1]


def test_a_bound_nothing_meets_names_the_least_size():
    engine = Engine(BIG, EVEN, WIDE)
    least = BIG.factors + EVEN.factors + WIDE.dense + 10
    with pytest.raises(InfeasibleBudgetError, match=rf"takes {least} bytes at the least.*allows {least - 1}"):
        build_within(engine.sources(), least - 1, engine, Writer(least - 1, overhead=10))
    assert build_within(engine.sources(), least, engine, Writer(least, overhead=10)).kept == {"big", "even"}
