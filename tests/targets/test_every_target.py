"""What every target must do, written once: outputs against float64, reports, and the runner's manners."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.errors import UnsupportedModelError
from compiler.frontends.torch_export import import_model
from devices import open_device
from devices.line_check import take_check
from devices.runner import start_runner
from targets import get_target, list_targets
from tests.targets.functions import Together


@pytest.fixture(params=list_targets())
def target(request):
    return get_target(request.param)


@pytest.fixture(scope="module")
def small_programs():
    """What was made of `Colliding`, by target."""
    return {}


@pytest.fixture
def small(target, small_programs, lower, imports, tmp_path, tmp_path_factory):
    """`Colliding` lowered for a target, in a folder of the test's own."""
    if target.name not in small_programs:
        made = lower(target, imports(normalised(Colliding()), torch.randn(SQUARE)))
        kept = shutil.copytree(made.folder, tmp_path_factory.mktemp("small") / "kept")
        small_programs[target.name] = dataclasses.replace(made, folder=kept)
    made = small_programs[target.name]
    return dataclasses.replace(made, folder=shutil.copytree(made.folder, tmp_path / "small"))


def each_target(**gaps):
    """Every target, the named ones marked with their gap."""
    assert set(gaps) <= set(list_targets()), f"no such target: {gaps}"
    cases = [pytest.param(name, marks=gaps.get(name, ())) for name in list_targets()]
    return pytest.mark.parametrize("target", cases, indirect=True)


def normalised(module, seed=0):
    """Random BatchNorm statistics and affine parameters."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.3, 2.0, generator=generator)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, generator=generator)
    return module.eval()


class SharedConv(nn.Module):
    """A detection head: one convolution, a BatchNorm for each level."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x, y):
        return self.first(self.conv(x)), self.second(self.conv(y))


class Colliding(nn.Module):
    """Two parameters whose names are equal once dots become underscores."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))})
        self.a_b = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.a_b(self.a["b"](x).relu())


class Attention(nn.Module):
    """Self-attention as vision transformers write it: unbind, layer norm, a class token."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(y.transpose(1, 2).reshape(b, n, c)))[:, 0]


class Total(nn.Module):
    """What no delegate takes."""

    def forward(self, x):
        return x.cumsum(-1)


class RunningSum(nn.Module):
    """A running sum between layers."""

    def __init__(self):
        super().__init__()
        self.first, self.total, self.last = nn.Linear(16, 8), Total(), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.total(self.first(x).relu()).tanh())


class Gate(nn.Module):
    """Squeeze and excite, pools and means of each kind, activations."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        f = nn.functional
        gate = f.hardsigmoid(self.expand(f.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        y = f.avg_pool2d(f.hardswish(x * gate), 2)
        z = f.avg_pool2d(y, 3, stride=1, padding=1) + f.interpolate(f.max_pool2d(y, 2), size=(4, 4))
        return f.adaptive_avg_pool2d(y + z, 1).flatten(1) + f.gelu(z.mean((2, 3)))


class Resized(nn.Module):
    """Resizes up and down, by whole factors and by others."""

    def forward(self, x):
        resize = nn.functional.interpolate
        nearest = [resize(x, size=size) for size in ((12, 8), (7, 9), (2, 3))]
        return (
            *nearest,
            resize(x, scale_factor=1.7),
            resize(x, (7, 9), mode="bilinear"),
            resize(x, (5, 3), mode="bilinear", antialias=True),
            resize(x, (5, 3), mode="bicubic", antialias=True),
            resize(x, (7, 9), mode="bicubic"),
            resize(x[:, :, 0], 7),
        )


class Windows(nn.Module):
    """Attention of three and of five axes, without a mask and with masks of either dtype."""

    def forward(self, x, mask):
        attention = nn.functional.scaled_dot_product_attention
        wide = x.reshape(2, 3, 2, 5, 8)
        return (
            attention(wide, wide, wide, scale=0.5),
            attention(wide, wide, wide, attn_mask=mask),
            attention(wide, wide, wide, attn_mask=mask > -1.0),
            attention(x, x, x, is_causal=True),
            attention(x, x, x, attn_mask=x[0, :, :5]),
        )


class Expanded(nn.Module):
    """An expansion between convolutions, as in MobileViTv2's attention."""

    def __init__(self):
        super().__init__()
        self.key, self.value, self.out = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        context = self.key(x).sum(-1, keepdim=True)
        return self.out(self.value(x).relu() * context.expand(-1, -1, -1, x.shape[-1]))


class RelativePositions(nn.Module):
    """Logits of five axes that are expanded and turned (BoTNet), and a padding of six axes (HaloNet)."""

    def forward(self, x):
        wide = x.reshape(2, 3, 1, 4, 4).expand(-1, -1, 3, -1, -1)
        logits = wide.permute(0, 1, 3, 2, 4) + wide.permute(0, 1, 3, 2, 4).flip(1) * 2
        return logits, nn.functional.pad(x.reshape(1, 2, 1, 3, 4, 4), (0, 1, 2, 0))


class Integers(nn.Module):
    """Integer inputs, an integer output, and one that is an input."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, tokens, x):
        return self.table(tokens) + x, tokens + 1


class Counter(nn.Module):
    """A state that each call changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


class Literals(nn.Module):
    """A tensor among results that are none, and the same tensor twice."""

    def forward(self, x):
        y = x + 1
        return y, None, 3, y, x


SQUARE = (1, 4, 8, 8)
PARTS = [
    (SharedConv, [SQUARE, SQUARE]),
    (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), [SQUARE]),
    (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), [(3, 4)]),
    (lambda: nn.Sequential(nn.Conv1d(4, 5, 3), nn.BatchNorm1d(5)), [(2, 4, 9)]),
    (Attention, [(2, 5, 16)]),
    (Windows, [(12, 5, 8), (3, 1, 5, 5)]),
    (Gate, [(2, 8, 8, 8)]),
    (Expanded, [SQUARE]),
    (RelativePositions, [(2, 3, 4, 4)]),
    (Resized, [(1, 2, 6, 4)]),
]


def test_the_runtime_computes_what_the_models_do(target, lower, imports):
    inputs = [torch.randn(shape) for _, shapes in PARTS for shape in shapes]
    graph = imports(normalised(Together([make() for make, _ in PARTS])), *inputs)
    assert lower(target, graph).error(*inputs) < 1e-5


def test_names_of_digits_and_names_that_collide(target, lower, imports, small):
    x = torch.randn(SQUARE)
    digits = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    assert lower(target, imports(normalised(digits), x)).error(x) < 1e-5
    assert small.error(x) < 1e-5


def test_integers_go_in_and_out(target, lower, imports):
    tokens, x = torch.tensor([[1, 9, 3]]), torch.randn(1, 3, 4)
    lowered = lower(target, imports(Integers(), tokens, x))
    assert lowered.error(tokens, x) < 1e-6
    assert torch.equal(lowered.infer(tokens, x)[1], tokens + 1)


@each_target(
    executorch=pytest.mark.notimpl(
        "the runner takes results that are no tensors for some", raises=AssertionError
    )
)
def test_literal_and_repeated_outputs(target, lower, imports):
    x = torch.randn(2, 3)
    found = lower(target, imports(Literals(), x)).infer(x)
    assert [torch.equal(a, b) for a, b in zip(found, (x + 1, x + 1, x), strict=True)] == [True] * 3


@each_target(
    litert=pytest.mark.notyet("litert-torch 0.10 writes no variables", raises=UnsupportedModelError),
    onnxruntime=pytest.mark.never("a session keeps no state between calls", raises=UnsupportedModelError),
    tvm=pytest.mark.never("a function of a library keeps no state", raises=UnsupportedModelError),
)
def test_a_state_is_kept_between_calls(target, lower, imports):
    x = torch.tensor([1.0, -2.0, 0.5])
    lowered = lower(target, imports(Counter(), torch.ones(3)))
    once, twice = lowered.infer(x)[0], lowered.infer(x, before=[lowered.asks(x)])[0]
    assert torch.allclose(twice - once, 2 * x)


def test_executing_again_does_not_change_the_outputs(small):
    x = torch.randn(SQUARE)
    first, later = small.infer(x), small.infer(x, before=[{"do": "time", "iterations": 20}])
    assert all(torch.equal(a, b) for a, b in zip(first, later, strict=True))


def test_the_runner_speaks_the_protocol(small):
    short = small.folder / "short.bin"
    short.write_bytes(b"1234")
    answers, code = small.talk(
        {"do": "time", "iterations": 4},
        {"do": "time_for", "seconds": 0.0, "min": 3},
        {"do": "fly"},
        "not json\n",
        {"do": "infer", "inputs": [str(short)], "outputs": str(small.folder)},
        {"do": "infer", "inputs": [], "outputs": str(small.folder)},
        {"do": "time", "iterations": 1},
        {"do": "exit"},
        {"do": "time", "iterations": 1},
    )
    ready, timed, least, *errors, after = answers
    assert code == 0 and ready["event"] == "ready" and ready["threads"] == 1 and ready["load_ns"] > 0
    assert len(timed["wall_ns"]) == len(timed["cpu_ns"]) == 4 and len(least["wall_ns"]) == 3
    assert all(isinstance(ns, int) and ns > 0 for ns in timed["wall_ns"])
    assert [list(e) for e in errors] == [["error"]] * 4 and "'fly'" in errors[0]["error"]
    assert "1024 bytes" in errors[2]["error"] and "takes 1 inputs" in errors[3]["error"]
    assert len(after["wall_ns"]) == 1, "the runner must stay up after an error and end at exit"


def test_an_answer_is_checked_where_the_request_asks_for_it(small):
    requests = [{"do": "time", "iterations": 2, "check": 1}, {"do": "fly", "check": 2}, {"do": "fly"}]
    (ready, *checked, bare), _ = small.talk(*requests)
    assert "crc32" not in bare
    for request, answer in zip([None, *requests], [ready, *checked], strict=False):
        asked = b"" if request is None else json.dumps(request).encode()
        assert take_check(asked, json.dumps(answer, ensure_ascii=False).encode()) is not None, answer


def test_a_program_that_cannot_be_loaded_is_said_on_stdout(small):
    small.spec().files["program"].write_bytes(b"no program")
    answers, code = small.talk()
    assert code == 1 and list(answers[0]) == ["error"]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_runtime_uses_the_profile_s_threads(small, threads):
    answers, _ = small.talk({"do": "time", "iterations": 1}, threads=threads)
    assert answers[0]["threads"] == threads and len(answers[1]["wall_ns"]) == 1


def test_a_runner_stays_on_the_cpus_it_was_given(small, tmp_path):
    given = max(os.sched_getaffinity(0))
    session = start_runner(open_device("local", tmp_path), small.spec(), (given,))
    try:
        session.request({"do": "time", "iterations": 3})
        tasks = Path(f"/proc/{session.channel.process.pid}/task").iterdir()
        assert {cpu for task in tasks for cpu in os.sched_getaffinity(int(task.name))} == {given}
    finally:
        session.close()


@each_target(
    onnxruntime=pytest.mark.never(
        "the CPU provider runs all of a model or refuses it", raises=AssertionError
    ),
    tvm=pytest.mark.never("all of a model is compiled", raises=AssertionError),
)
def test_the_report_counts_what_fell_outside_by_module(target, lower, imports):
    report = lower(target, imports(RunningSum(), torch.randn(2, 5, 16))).report
    assert report["delegates"] > 0 and report["delegated_ops"] > report["outside_ops"] > 0
    assert "total" in {m for row in report["outside"] for m in row["modules"]}
    assert sum(row["count"] for row in report["outside"]) == report["outside_ops"]


def test_a_method_there_is_not_is_told_with_the_one_there_is(small):
    small.method = "forward"
    assert small.talk()[0][0]["event"] == "ready"
    small.method = "forward_t9"
    answers, code = small.talk()
    assert code == 1 and "'forward_t9'; it has forward" in answers[0]["error"]


def test_what_the_runtime_cannot_run_is_refused_by_name(target, lower):
    class Histogram(nn.Module):
        def forward(self, x):
            return torch.histc(x, 4)

    graph = import_model(Histogram().eval(), (torch.randn(8),))
    with pytest.raises(UnsupportedModelError, match="histc") as caught:
        lower(target, graph)
    assert len(str(caught.value)) < 600


def test_lowering_keeps_the_graph_and_prints_nothing(target, lower, imports, capfd):
    graph = imports(normalised(SharedConv()), torch.randn(SQUARE), torch.randn(SQUARE))
    before = graph.copy()
    lower(target, graph)
    assert graph == before
    assert capfd.readouterr() == ("", "")


def test_an_installed_sdk_says_its_versions(target):
    assert target.installed() is None
    assert all(target.versions().values())
