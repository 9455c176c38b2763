"""Compiling with a runtime that is torch itself: what is written, what is refused, who is blamed."""

import json

import pytest
import torch
from torch import nn

import edgewright.check
import edgewright.recipe
import edgewright.stages
from compiler.errors import FallbackError, NumericError, UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from compiler.ir.graph import Kind
from compiler.ir.text import parse_graph
from compiler.plan import Decision, Plan
from edgewright.artifact import read_artifact
from edgewright.compilation import compile
from edgewright.explanation import explain


class Lowered:
    files = ("model.bin",)
    report = {"delegated_ops": 1, "outside_ops": 2, "outside": [{"op": "aten.sin", "count": 2}]}  # noqa: RUF012


class TorchTarget:
    """Runs the graph it lowered with torch, off by `error`."""

    name = "executorch"  # the name the host profile knows
    folds_at_load = False
    depthwise_taps = None
    precisions = ("float32", "int8")
    error = 0.0

    def installed(self):
        return None

    def versions(self):
        return {"torch": torch.__version__}

    def lower(self, methods, profile, folder):
        self.graphs = methods
        (folder / "model.bin").write_bytes(b"program")
        return Lowered

    def infer(self, artifact, target, profile, calls, fresh=False, method=None):
        assert (artifact.folder / "model.bin").exists()
        return [[r + self.error for r in evaluate(self.graphs[method], call)] for call in calls]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


@pytest.fixture
def target(monkeypatch):
    one = TorchTarget()
    monkeypatch.setattr(edgewright.recipe, "get_target", lambda name: one)
    monkeypatch.setattr(edgewright.check, "infer", one.infer)
    return one


@pytest.fixture
def build(target, tmp_path):
    torch.manual_seed(0)

    def run(model=None, inputs=None, **options):
        inputs = torch.randn(1, 3, 8, 8) if inputs is None else inputs
        model = Net().eval() if model is None else model
        return compile(model, inputs=inputs, out=tmp_path / "out", **{"randomize": 3, **options})

    return run


def test_the_artifact_says_what_it_is(build, tmp_path):
    artifact = build()
    manifest = artifact.manifest
    assert read_artifact(tmp_path / "out").manifest == manifest
    assert manifest["schema"] == "edgewright.artifact/3"
    (method,) = manifest["methods"]
    assert method["name"] == "forward"
    assert method["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert method["outputs"][0]["shape"] == [1, 4, 8, 8]
    assert method["merges"]["merged"] == 1
    assert method["operations"]["aten.batch_norm.default"] == {"before": 1, "after": 0}
    assert manifest["verification"]["passed"]
    assert {c["inputs"] for c in manifest["verification"]["comparisons"]} == {"example", "seed 1", "seed 2"}
    assert manifest["sizes_bytes"] == {"model.bin": 7}
    for key in ("plan_digest", "profile_digest", "artifact_digest"):
        assert len(manifest[key]) == 16
    assert len(method["graph_digest"]) == 16


def test_the_folder_holds_the_graph_and_the_attempts(build):
    folder = build().folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "attempts.json",
        "graph_forward.txt",
        "manifest.json",
        "model.bin",
        "plan.txt",
    ]
    assert "aten.conv2d.default" in {
        n.op for n in parse_graph((folder / "graph_forward.txt").read_text()).ops()
    }
    assert json.loads((folder / "attempts.json").read_text())[0]["outcome"] == "merged"
    assert explain(folder)["attempts"] == json.loads((folder / "attempts.json").read_text())


def test_building_twice_gives_the_same_digests(build):
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    first, second = ({**m, **m["methods"][0]} for m in (build(model, x).manifest, build(model, x).manifest))
    assert {k: first[k] for k in first if k.endswith("digest")} == {
        k: second[k] for k in second if k.endswith("digest")
    }


def test_a_runtime_that_computes_something_else_is_blamed(build, target, tmp_path):
    target.error = 1e-2
    with pytest.raises(NumericError, match="first differ at stage 'lower:executorch'"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_computes_something_else_is_blamed(build, monkeypatch, tmp_path):
    def break_bias(graph):
        editor = Editor(graph)
        conv = next(n for n in graph.ops() if "conv" in n.op)
        bias = conv.operand("bias")
        editor.graph.constants[bias.node] = type(graph.constants[bias.node])(graph.constant(bias) + 0.01)
        return editor.finish()

    steps = (*edgewright.stages.PIPELINE, ("break_bias", break_bias), ("nothing", lambda graph: graph))
    monkeypatch.setattr(edgewright.stages, "PIPELINE", steps)
    with pytest.raises(NumericError, match="first differ at stage 'break_bias'"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_computes_something_else_is_blamed(build, monkeypatch):
    def merge_wrongly(graph, *options, **more):
        merged, attempts = honest(graph, *options, **more)
        editor = Editor(merged)
        name = next(n.name for n in merged.nodes() if n.kind is Kind.CONSTANT)
        editor.graph.constants[name] = type(merged.constants[name])(merged.constants[name].tensor * 1.001)
        return editor.finish(), attempts

    honest = edgewright.stages.merge
    monkeypatch.setattr(edgewright.stages, "merge", merge_wrongly)
    with pytest.raises(NumericError, match="first differ at stage 'merge'"):
        build()


def test_a_missing_output_fails(build, target, monkeypatch):
    monkeypatch.setattr(edgewright.check, "infer", lambda *_, **__: [[], [], []])
    with pytest.raises(NumericError, match="returns 0 tensors"):
        build()


def test_too_much_fallback_fails(build, tmp_path):
    with pytest.raises(
        FallbackError, match=r"2 operations stay outside the delegate, 1 are allowed: aten\.sin"
    ):
        build(max_fallback=1)
    assert list(tmp_path.iterdir()) == []
    assert build(max_fallback=2)


def test_a_plan_that_keeps_everything_is_the_float_model(build):
    model, plan = Net().eval(), Plan((Decision("segment:conv", "precision", "float32"),))
    plain = build(model, randomize=None).manifest
    kept = build(model, randomize=None, plan=plan).manifest
    assert kept["plan_digest"] != plain["plan_digest"]
    assert kept["methods"][0]["graph_digest"] == plain["methods"][0]["graph_digest"]


def test_a_plan_that_quantizes_needs_batches(build, tmp_path):
    with pytest.raises(UsageError, match="--calibration"):
        build(plan=Plan((Decision("segment:conv", "precision", "int8"),)))
    assert list(tmp_path.iterdir()) == []


def chain(depth, seed):
    torch.manual_seed(seed)
    layers = [m for _ in range(depth) for m in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(8, 4)).eval()


def test_a_plan_that_stitches_is_replayed_with_its_donor(tmp_path, target):
    model, x = chain(6, 0), torch.randn(64, 8)
    plan = Plan((Decision("model", "stitch", "leave:1"),))
    given = {"plan": plan, "inputs": x, "calibration": [(torch.randn(64, 8),) for _ in range(8)]}
    made = compile(model, **given, donor=chain(2, 1), out=tmp_path / "out")
    text = (made.folder / "graph_forward.txt").read_text()
    assert "donor" in text
    assert text.count("aten.linear.default") < 7
    with pytest.raises(UsageError, match="stitch"):
        compile(model, **given, out=tmp_path / "alone")


@pytest.mark.parametrize("given", [7, [1, 2], None])
def test_what_is_no_model_is_told(given, tmp_path):
    with pytest.raises(UsageError, match="is no model"):
        compile(given, out=tmp_path / "out")


def test_a_module_in_training_mode_is_refused(build):
    with pytest.raises(UnsupportedModelError, match=r"\.eval\(\)"):
        build(Net())


def test_a_model_that_names_float32_in_its_code_is_still_checked(build):
    class Fixed(Net):
        def forward(self, x):
            return super().forward(x) @ torch.ones(8, 8, dtype=torch.float32)

    comparisons = build(Fixed().eval()).manifest["verification"]["comparisons"]
    assert {c["reference"] for c in comparisons} == {"imported graph in float64"}


def test_several_outputs_in_a_dict_and_keyword_inputs(build):
    class Pair(nn.Module):
        def forward(self, x, scale=1.0, *, shift):
            return {"sum": x + shift, "label": (x * scale).argmax(-1)}

    artifact = build(Pair().eval(), {"x": torch.randn(2, 5), "shift": torch.randn(5)})
    assert [i["name"] for i in artifact.manifest["methods"][0]["inputs"]] == ["x", "shift"]
    assert [o["dtype"] for o in artifact.manifest["methods"][0]["outputs"]] == ["float32", "int64"]
