"""The runner protocol in C: what it times, what it refuses, and that it stays up."""

import json
import subprocess
from collections import Counter

import torch

from devices.line_check import take_check
from targets.tvm.static import EXECUTABLE, WEIGHTS
from tests.targets.static.programs import MODELS, convnet


def test_the_program_times_counts_and_profiles(mlp):
    requests = [
        *({"do": "time", "iterations": 4}, {"do": "time", "iterations": 0}),
        *({"do": "time_for", "seconds": 0}, {"do": "time_for", "seconds": 0.01, "min": 1}),
        *(
            {"do": "count", "iterations": 2},
            {"do": "profile", "iterations": 3},
            {"do": "memory"},
            {"do": "exit"},
            {"do": "time"},
        ),
    ]
    (ready, four, none, three, many, counted, profiled, memory), code = mlp.talk(*requests)
    assert code == 0 and ready["event"] == "ready" and ready["threads"] == 1
    assert ready["load_ns"] > 0 and ready["first_ns"] > 0
    lengths = [(len(a["wall_ns"]), len(a["cpu_ns"])) for a in (four, none, three)]
    assert lengths == [(4, 4), (0, 0), (3, 3)] and len(many["wall_ns"]) >= 1
    assert all(isinstance(ns, int) and ns >= 0 for ns in many["wall_ns"] + many["cpu_ns"])
    assert counted == {"iterations": 2}
    assert 100_000 < memory["peak_rss_bytes"] < 100_000_000
    names = [row["name"] for row in profiled["operations"]]
    assert len(names) == len(set(names))  # a row for each call
    assert Counter(r["op"] for r in profiled["operations"]).items() <= mlp.report["kernels"].items()
    assert all(len(r["ns"]) == 3 and r["name"].partition("#")[0] == r["op"] for r in profiled["operations"])
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


def test_answers_are_checked_where_the_request_asks_for_it(mlp):
    requests = [{"do": "time", "iterations": 300, "check": 1}, {"do": "time", "iterations": 0, "check": 2}]
    refused = {"do": "fl\u00fc", "check": 3}
    (ready, *checked, bare), _ = mlp.talk(*requests, refused, {"do": "time", "iterations": 1})
    assert "crc32" not in bare
    for request, answer in zip([None, *requests, refused], [ready, *checked], strict=True):
        asked = b"" if request is None else json.dumps(request).encode()
        assert take_check(asked, json.dumps(answer, ensure_ascii=False).encode()) is not None, answer


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
