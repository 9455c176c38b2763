"""Static executables: the same C and kernels that go to a phone, built for this machine and run."""

import dataclasses
import json
import struct
import subprocess

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from compiler.errors import NumericError, UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.records import Artifact
from compiler.target import FORWARD
from edgewright import compile
from profiles import load_profile
from targets import get_target
from targets.tvm import LIBRARY_TWIN, PROGRAM, processor
from targets.tvm.static import EXECUTABLE, TWIN, WEIGHTS
from targets.tvm.static.link import zig
from tests.targets.conftest import PROFILE, Lowered

TARGET = get_target("tvm")
HERE = processor.machine()
BUILT = {}  # a program of each name, built once


def stating(arch=HERE, **fields):
    return dataclasses.replace(PROFILE, arch=arch, **fields)


class TwoWays(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 32), nn.Linear(7, 32), nn.Linear(32, 5)

    def forward(self, x, y):
        hidden = f.gelu(self.a(x) * self.b(y).sigmoid())
        return self.c(hidden), hidden.reshape(2, 3, 32).softmax(-1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(6, 8, 2, batch_first=True)

    def forward(self, x):
        y, (h, c) = self.cells(x)
        return y, h, c


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).reshape(2, 9, 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = f.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(2, 9, 16))


class Bytes(nn.Module):
    """int8 weights and int8 values between kernels, as int8 programs have them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("row", torch.randint(-60, 60, (16,), dtype=torch.int8))

    def forward(self, x):
        small = (x * 20).round().clamp(-60, 60).to(torch.int8)
        moved = small.flip(1) + self.row
        wide = moved.to(torch.int32) * small.to(torch.int32)
        return moved, moved.float().mean(1), wide, (wide.float() / 40).round().to(torch.int8)


class Types(nn.Module):
    """Each type at the boundary; an output that is an input, one that is a weight, one returned twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))

    def forward(self, half, byte, tiny, number, index, flag):
        doubled = half * 2
        picked = self.table[index]
        return (
            *(doubled, byte + 1, tiny.abs(), number * number, index.flip(0), flag.logical_not()),
            *(picked, self.table, index, doubled.reshape(6), doubled),
        )


def convnet():
    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    )
    head = nn.Conv2d(8, 12, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    return nn.Sequential(*layers, *head)


def mobilenet():
    import timm

    return timm.create_model("mobilenetv2_035", pretrained=False, num_classes=10)


MODELS = {
    "convnet": (convnet, lambda: (torch.randn(2, 3, 16, 16),)),
    "mlp": (TwoWays, lambda: (torch.randn(6, 12), torch.randn(6, 7))),
    "lstm": (Recurrent, lambda: (torch.randn(2, 5, 6),)),
    "attention": (Attention, lambda: (torch.randn(2, 9, 16),)),
    "mobilenetv2_035": (mobilenet, lambda: (torch.randn(1, 3, 96, 96),)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("static")


@pytest.fixture
def build(imports, folders):
    """A module and inputs to the program for this machine's processor, as `Lowered`."""

    def run(name, module, inputs, profile=None, **options):
        if name not in BUILT:
            graph, folder = imports(module, *inputs, **options), folders / name
            report = TARGET.lower({FORWARD: graph}, profile or stating(), folder).report
            BUILT[name] = Lowered(TARGET, graph, folder, dict(report))
        return BUILT[name]

    return run


@pytest.fixture
def mlp(build):
    return build("mlp", TwoWays(), MODELS["mlp"][1]())


SLOW = {"mobilenetv2_035"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS])
def test_a_static_program_agrees_with_float64(build, name):
    module, draw = MODELS[name]
    lowered = build(name, module(), draw())
    assert lowered.report["route"] == "static" and "static_refused" not in lowered.report
    assert lowered.error(*draw()) < 1e-5
    assert lowered.error(*draw()) < 1e-5
    sizes = {n: (lowered.folder / n).stat().st_size for n in (EXECUTABLE, WEIGHTS)}
    assert sizes == {EXECUTABLE: lowered.report["executable_bytes"], WEIGHTS: lowered.report["weights_bytes"]}
    assert lowered.report["verified"] == "program" and not (lowered.folder / TWIN).exists()


@pytest.mark.slow
def test_weights_lie_beside_the_executable_and_values_share_an_arena(build):
    lowered = build("mobilenetv2_035", mobilenet(), MODELS["mobilenetv2_035"][1]())
    report = lowered.report
    assert report["weights_bytes"] >= report["constant_bytes"] > 4 * report["executable_bytes"] / 5
    values = [v for n in lowered.graph.ops() for v in n.types]
    assert report["arena_bytes"] < sum(4 * int(torch.Size(v.shape).numel()) for v in values) / 3


def test_int8_weights_and_values(build):
    x = torch.randn(3, 16)
    lowered = build("bytes", Bytes(), (x,))
    for got, expected in zip(lowered.infer(x), evaluate(lowered.graph, (x,)), strict=True):
        assert got.dtype == expected.dtype and torch.equal(got, expected)


def test_every_type_at_the_boundary(build):
    inputs = (
        torch.randn(2, 3).half(),
        torch.tensor([0, 200, 254], dtype=torch.uint8),
        torch.tensor([[-127, 5]], dtype=torch.int8),
        torch.tensor(-70000 // 2, dtype=torch.int32),
        torch.tensor([2, 0], dtype=torch.int64),
        torch.tensor([True, False]),
    )
    lowered = build("types", Types(), inputs)
    found, expected = lowered.infer(*inputs), evaluate(lowered.graph, inputs)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    assert all(torch.equal(y, e) for y, e in zip(found, expected, strict=True))
    again, expected = lowered.infer(*(t.flip(0) if t.dim() else t for t in inputs)), found
    assert not torch.equal(again[0], expected[0]) and torch.equal(again[7], expected[7])


def test_the_program_times_counts_and_profiles(mlp):
    requests = [
        *({"do": "time", "iterations": 4}, {"do": "time", "iterations": 0}),
        *({"do": "time_for", "seconds": 0}, {"do": "time_for", "seconds": 0.01, "min": 1}),
        *(
            {"do": "count", "iterations": 2},
            {"do": "profile", "iterations": 3},
            {"do": "exit"},
            {"do": "time"},
        ),
    ]
    (ready, four, none, three, many, counted, profiled), code = mlp.talk(*requests)
    assert code == 0 and ready["event"] == "ready" and ready["threads"] == 1
    assert ready["load_ns"] > 0 and ready["first_ns"] > 0
    lengths = [(len(a["wall_ns"]), len(a["cpu_ns"])) for a in (four, none, three)]
    assert lengths == [(4, 4), (0, 0), (3, 3)] and len(many["wall_ns"]) >= 1
    assert all(isinstance(ns, int) and ns >= 0 for ns in many["wall_ns"] + many["cpu_ns"])
    assert counted == {"iterations": 2}
    names = [row["name"] for row in profiled["operations"]]
    assert len(names) == len(set(names)) and set(names) <= set(mlp.report["kernels"])
    assert all(
        len(r["ns"]) == 3 * mlp.report["kernels"][r["name"]] and r["op"] == r["name"]
        for r in profiled["operations"]
    )
    assert any(row["ns"][-1] > 0 for row in profiled["operations"])  # the last iteration ran too


BAD = {
    "nonsense": "no JSON",
    '{"do": "time", "iterations": 1': "no end",
    '{"do": "time", "iterations": 1} {}': "something follows",
    '{"do": "\\ud800"}': "surrogate",
    '{"do": "\\q"}': "escape",
    "[" * 100: "nested too deeply",
    "[1, 2]": "unknown request ''",
    "null": "unknown request ''",
    '{"do": 3}': "unknown request ''",
    '{"do": "fly\\u00e9\\ud83d\\ude00"}': "unknown request 'flyé😀'; expected time, time_for",
    json.dumps({"do": "é" * 100}): "unknown request 'é",
    '{"do": "time"}': "iterations must be a whole number",
    '{"do": "time", "iterations": 1.5}': "iterations must be a whole number",
    '{"do": "time", "iterations": -1}': "iterations must be a whole number",
    '{"do": "time", "iterations": 1e30}': "iterations must be a whole number",
    '{"do": "time", "iterations": "5"}': "iterations must be a whole number",
    '{"do": "count", "iterations": null}': "iterations must be a whole number",
    '{"do": "profile", "iterations": 01}': "no JSON",
    '{"do": "time_for", "seconds": true}': "seconds must be a number",
    '{"do": "time_for", "seconds": 1, "min": -1}': "min must be a whole number",
    '{"do": "infer"}': "inputs must be a list of paths",
    '{"do": "infer", "inputs": [], "outputs": 3}': "outputs must be the path",
    '{"do": "infer", "inputs": ["a"], "outputs": "b"}': "takes 2 inputs, got 1 files",
    '{"do": "infer", "inputs": [1, 2], "outputs": "b"}': "inputs must be paths",
    '{"do": "infer", "inputs": ["/none/é", "b"], "outputs": "b"}': "cannot read /none/é: No such file",
    '{"do": "infer", "inputs": ["/dev/null", "b"], "outputs": "b"}': "input 'x' takes 288 bytes, /dev/null holds 0",
}


def test_bad_requests_are_answered_and_the_program_stays_up(mlp):
    answers, code = mlp.talk(*(text + "\n" for text in BAD), "\n", {"do": "time", "iterations": 1})
    assert code == 0 and len(answers) == len(BAD) + 2
    missed = [
        (sent, a)
        for (sent, words), a in zip(BAD.items(), answers[1:-1], strict=True)
        if words not in a.get("error", "")
    ]
    assert missed == [] and len(answers[-1]["wall_ns"]) == 1


def test_a_failed_inference_leaves_the_next_one_alone(mlp, tmp_path):
    x, y = torch.randn(6, 12), torch.randn(6, 7)
    spoilt = {**mlp.asks(x, y), "outputs": str(tmp_path / "none")}
    answers, _ = mlp.talk(spoilt, mlp.asks(x, y))
    assert (
        f"cannot write {tmp_path}/none/output0.bin" in answers[1]["error"] and len(answers[2]["outputs"]) == 2
    )
    strange = tmp_path / 'a "é😀\\ folder'
    strange.mkdir()
    answers, _ = mlp.talk({**mlp.asks(x, y), "outputs": str(strange)})
    assert answers[1]["outputs"][1]["path"] == f"{strange}/output1.bin" and len(list(strange.iterdir())) == 2


def test_what_cannot_be_loaded_is_said(mlp, build, tmp_path):
    other = build("convnet", convnet(), MODELS["convnet"][1]())
    (tmp_path / "short").write_bytes((mlp.folder / WEIGHTS).read_bytes()[:-1])
    size = (mlp.folder / WEIGHTS).stat().st_size
    (tmp_path / "foreign").write_bytes((other.folder / WEIGHTS).read_bytes()[:size].ljust(size, b"\0"))
    cases = {
        (str(tmp_path / "none"),): "cannot open the weights",
        (str(tmp_path / "short"),): "are not",
        (str(tmp_path / "foreign"),): "belong to another program",
        (str(mlp.folder / WEIGHTS), "--method", "other"): "no method 'other'; it has forward",
        (): "usage",
    }
    for arguments, words in cases.items():
        done = subprocess.run(
            [mlp.folder / EXECUTABLE, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and words in json.loads(done.stdout)["error"]


def test_a_program_that_computes_nothing_returns_a_view(build):
    x = torch.randn(2, 6)
    lowered = build("view", nn.Unflatten(1, (2, 3)), (x,))
    assert torch.equal(lowered.infer(x)[0], x.reshape(2, 2, 3)) and lowered.report["arena_bytes"] == 0
    assert lowered.talk({"do": "profile", "iterations": 2})[0][1] == {"operations": []}


def test_a_linker_that_fails_is_quoted():
    with pytest.raises(
        UnsupportedModelError, match=r"cannot link the program for x86_64-linux-musl: .*none\.c"
    ):
        zig("x86_64-linux-musl", "-c", "/none.c")  # nothing of musl is compiled for it


def elf(path):
    """Machine, type and whether a program interpreter is asked for."""
    data = path.read_bytes()
    kind, machine = struct.unpack_from("<HH", data, 16)
    (start,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    assert data[:5] == b"\x7fELF\x02"
    return machine, kind, any(struct.unpack_from("<I", data, start + i * size)[0] == 3 for i in range(count))


AARCH64, X86_64, LIBRARY = 183, 62, 3


def test_another_processor_gets_a_static_executable_and_this_machine_its_twin(build):
    x = torch.randn(2, 9, 16)
    lowered = build("foreign", Attention(), (x,), stating("aarch64", cpu="cortex-a76"))
    assert elf(lowered.folder / EXECUTABLE) == (AARCH64, 2, False)
    assert elf(lowered.folder / TWIN)[0] == {"x86_64": X86_64, "aarch64": AARCH64}[HERE]
    report = lowered.report
    assert (report["route"], report["arch"], report["cpu"]) == ("static", "aarch64", "cortex-a76")
    assert report["verified"] == "twin" and lowered.error(x) < 1e-5  # the spec of no arch is the twin's
    spec = TARGET.run_spec(Artifact(lowered.folder, {}), stating("aarch64"), FORWARD)
    assert spec.files == {"program": lowered.folder / EXECUTABLE, "weights": lowered.folder / WEIGHTS}
    assert spec.command == ("{program}", "{weights}", "--method", FORWARD)


def test_a_program_is_not_started_on_another_instruction_set(tmp_path):
    built = Artifact(tmp_path, {"lowering": {"arch": "aarch64"}})
    with pytest.raises(
        UsageError, match=r"compiled for aarch64, the profile 'test' is of x86_64: compile it for that"
    ):
        TARGET.run_spec(built, stating("x86_64"))
    other = Artifact(tmp_path, {"lowering": {"arch": "aarch64", "cpu": "cortex-a76"}})
    with pytest.raises(UsageError, match=r"compiled for aarch64 cortex-a76, .* is of aarch64 cortex-a53"):
        TARGET.run_spec(other, stating("aarch64", cpu="cortex-a53"))
    here = Artifact(tmp_path, {"lowering": {}})
    with pytest.raises(UsageError, match=f"compiled for {HERE}"):
        TARGET.run_spec(here, stating({"x86_64": "aarch64", "aarch64": "x86_64"}[HERE]))


def test_an_unknown_processor_is_refused():
    with pytest.raises(UsageError, match=r"knows no aarch64 processor 'cortex-a67'; did you mean cortex-a"):
        processor.stated(stating("aarch64", cpu="cortex-a67"))


def test_what_has_no_static_form_becomes_a_library_for_that_processor(build):
    x = torch.randn(3, 8)
    lowered = build("sorted", Sorted(), (x,), stating("aarch64"))
    assert lowered.report["route"] == "vm" and "argsort" in lowered.report["static_refused"]
    assert elf(lowered.folder / PROGRAM) == (AARCH64, LIBRARY, False)
    assert (lowered.folder / LIBRARY_TWIN).exists() and lowered.error(x) == 0
    spec = TARGET.run_spec(Artifact(lowered.folder, {}), stating("aarch64"))
    assert spec.files["program"] == lowered.folder / PROGRAM


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(-1)[0]


@pytest.mark.parametrize(
    ("name", "module", "options", "threads", "words"),
    [
        ("threads", nn.Linear(4, 4), {}, 2, "one thread, the profile asks for 2"),
        (
            "dynamic",
            nn.Linear(4, 4),
            {"dynamic_shapes": ({0: torch.export.Dim("n", min=1, max=64)},)},
            1,
            "dynamic",
        ),
    ],
)
def test_refusals_give_their_reason(build, name, module, options, threads, words):
    x = torch.randn(2, 4)
    lowered = build(name, module, (x,), stating(threads=threads), **options)
    assert lowered.report["route"] == "vm" and words in lowered.report["static_refused"]
    assert lowered.error(x) < 1e-5


PROFILE_TEXT = """
[device]
name = "phone"
arch = "aarch64"
cpu = "cortex-a76"
[reach]
transport = "local"
[run]
targets = ["tvm"]
threads = 1
affinity = [6, 7]
"""


def test_compile_verifies_the_twin(tmp_path, monkeypatch):
    (tmp_path / "phone.toml").write_text(PROFILE_TEXT)
    phone = load_profile(tmp_path / "phone.toml")
    net, x = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).eval(), (torch.randn(2, 6),)
    built = compile(net, phone, inputs=x, out=tmp_path / "out")
    assert built.manifest["files"] == [EXECUTABLE, "io.json", TWIN, WEIGHTS]
    assert built.manifest["lowering"]["verified"] == "twin" and built.manifest["verification"]["passed"]
    assert built.manifest["versions"]["ziglang"]

    from targets.tvm import cross

    whole = cross.lay_out
    monkeypatch.setattr(
        cross, "lay_out", lambda p: whole(dataclasses.replace(p, storages=spoilt(p.storages)))
    )
    with pytest.raises(NumericError, match="lower:tvm"):
        compile(net, phone, inputs=x, out=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def spoilt(storages):
    """The storages with the first byte of each weight changed."""
    return tuple(
        dataclasses.replace(s, content=s.content and bytes([255 - s.content[0]]) * len(s.content))
        for s in storages
    )
