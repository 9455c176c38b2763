"""`compile --tokens` with ExecuTorch underneath: one program, a method for each token count."""

import json

import pytest

from compiler.ir.text import parse_graph
from edgewright.cli import main

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
WIDTH, RANK = 64, 24


class LowRank(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.down = nn.Linear(inner, RANK, bias=False)
        self.up = nn.Linear(RANK, outer)

    def forward(self, x):
        return self.up(self.down(x))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = LowRank(WIDTH, WIDTH), LowRank(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.second(nn.functional.gelu(self.first(x)))


def ffn():
    return FeedForward().eval(), (3 * torch.randn(1, 4, WIDTH) + 1,)
"""
QUICK = """
[device]
name = "quick"
[reach]
transport = "local"
[run]
targets = ["executorch"]
threads = 1
[protocol]
settle_s = 0.0
warmup_s = 0.01
warmup_max_s = 0.1
round_s = 0.01
min_rounds = 3
max_rounds = 4
max_seconds = 1.0
"""
METHODS = {"forward_t1": 1, "forward_t256": 256}  # a launch is dear at one token, arithmetic at 256


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "ffn.py").write_text(MODEL)
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments, code=0):
        capsys.readouterr()
        ended = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert ended == code, captured.err
        return captured.out if code == 0 else captured.err

    return call


@pytest.fixture(scope="module")
def built(files, tmp_path_factory):
    """One program with two methods."""
    out = tmp_path_factory.mktemp("built") / "out"
    command = ["compile", f"{files / 'ffn.py'}:ffn", "--tokens", "1,256", "-o", str(out)]
    assert main([*command, "--profile", str(files / "quick.toml")]) == 0
    return out


def test_each_method_is_verified_in_the_runtime(built):
    manifest = json.loads((built / "manifest.json").read_text())
    shapes = {m["name"]: m["inputs"][0]["shape"] for m in manifest["methods"]}
    assert shapes == {name: [1, tokens, 64] for name, tokens in METHODS.items()}
    checks = manifest["verification"]
    assert checks["passed"] and {c["method"] for c in checks["comparisons"]} == set(METHODS)
    assert checks["min_snr_db"] > 100
    for name in METHODS:
        assert (
            parse_graph((built / f"graph_{name}.txt").read_text()).inputs()[0].type.shape[1] == METHODS[name]
        )


def test_each_method_has_its_cheaper_form(built):
    graphs = {name: parse_graph((built / f"graph_{name}.txt").read_text()) for name in METHODS}
    linears = {name: graph.histogram()["aten.linear.default"] for name, graph in graphs.items()}
    assert linears == {"forward_t1": 2, "forward_t256": 4}
    attempts = json.loads((built / "attempts.json").read_text())
    outcomes = {(a["method"], a["site"], a["outcome"]) for a in attempts}
    for site in ("first", "second"):
        assert ("forward_t1", site, "merged") in outcomes and ("forward_t256", site, "kept") in outcomes


def test_the_memory_cost_is_reported(built, run):
    manifest = json.loads((built / "manifest.json").read_text())
    lowering = manifest["lowering"]
    own = [m["constant_bytes"] for m in lowering["methods"].values()]
    assert 0 < lowering["shared_bytes"] < min(own), "both forms are held; what they share is biases"
    stored = sum(own) - lowering["shared_bytes"]
    assert stored < lowering["program_bytes"] < stored + 30_000, "what both methods read is there once"


def test_a_method_is_measured_by_name(built, files, tmp_path, run):
    common = (
        "--profile",
        files / "quick.toml",
        "--database",
        tmp_path / "m.db",
        "--allow-unstable",
        "--json",
    )
    first = json.loads(run("profile", built, *common))
    other = json.loads(run("profile", built, "--method", "forward_t256", *common))
    assert (first["method"], other["method"]) == ("forward_t1", "forward_t256")
    assert first["artifact_digest"] == other["artifact_digest"]
    assert first["graph_digest"] != other["graph_digest"]
    assert first["samples"] > 0 and other["samples"] > 0
    told = run("profile", built, "--method", "forward_t9", *common, code=2)
    assert "no method 'forward_t9'; it has forward_t1, forward_t256" in told


def test_explain_tells_each_method(built, run):
    explained = json.loads(run("explain", built, "--json"))
    assert set(explained["operations"]) == set(METHODS)
    assert {a["method"] for a in explained["attempts"]} == set(METHODS)
    assert "operations of forward_t256" in run("explain", built)


def test_a_bound_on_the_bytes_takes_merges_back(built, files, tmp_path, run):
    """Below the size of both forms at both sites, one site and then both are left factored."""
    model, shared = f"{files / 'ffn.py'}:ffn", ("--tokens", "1,256", "--profile", files / "quick.toml")
    whole = sum(json.loads((built / "manifest.json").read_text())["sizes_bytes"].values())
    bounded = json.loads(
        run("compile", model, *shared, "--max-bytes", f"{whole - 1}B", "-o", tmp_path / "fits", "--json")
    )
    assert sum(bounded["sizes_bytes"].values()) < whole - 4 * 64 * 64 + 2000
    assert len(bounded["kept_factored"]) == 1 and bounded["max_bytes"] == whole - 1
    told = run("compile", model, *shared, "--max-bytes", "1kB", "-o", tmp_path / "small", code=6)
    least = int(told.partition("the program takes ")[2].split()[0])
    assert least < whole - 2 * 4 * 64 * 64 + 4000 and "--max-bytes allows 1000" in told
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tokens", "0"), "different positive numbers"),
        (("--tokens", "1,1"), "different positive numbers"),
        (("--tokens", "1", "--max-bytes", "4 parsecs"), "40MB, 512kB"),
        (("--input", "1xTx64"), "give --tokens"),
        (("--tokens", "1", "--input", "1x4x64"), "write T in its place"),
        (("--tokens", "3", "--input", "1x4xT"), "does not run on 1x4x3"),
    ],
)
def test_a_bad_option(files, tmp_path, run, options, words):
    told = run("compile", f"{files / 'ffn.py'}:ffn", "-o", tmp_path / "out", *options, code=2)
    assert words in told and list(tmp_path.iterdir()) == []


def test_the_marked_axis_is_sized(files, tmp_path, run):
    options = ("--tokens", "5", "--input", "2xTx64", "--profile", files / "quick.toml", "--json")
    manifest = json.loads(run("compile", f"{files / 'ffn.py'}:ffn", "-o", tmp_path / "out", *options))
    (method,) = manifest["methods"]
    assert (method["name"], method["inputs"][0]["shape"]) == ("forward_t5", [2, 5, 64])
