"""The commands of a user on a phone that asks for a key: compile for its profile, then profile on it.

The phone is the stand-in: the genuine adb daemon over an emulated arm64 userland. What the runtimes compute
there is an Arm processor's, its milliseconds are nobody's.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from devices import open_device
from devices.transports.adb.keys import load_keys
from edgewright.artifact import read_artifact
from edgewright.cli import main
from edgewright.models import load_model
from edgewright.runtime import infer
from profiles import load_profile
from targets import get_target, list_targets
from tests.standin_phone import made_phone, running_adb_server, running_phone

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """A block of two branches behind a strided convolution, a pool and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.narrow = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.wide(x) + self.narrow(x)).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 3, 32, 32),)
'''
LARGE = "timm:mobileone_s0"
BY_OPERATION = {"onnxruntime", "tvm"}
QUICK = {("litert", "direct"), ("onnxruntime", "server"), ("tvm", "direct"), ("tvm", "server")}
CASES = [
    pytest.param(target, way, marks=() if (target, way) in QUICK else pytest.mark.slow)
    for target in list_targets()
    for way in ("direct", "server")
]
ERROR = 1e-4  # of the largest output

# LiteRT's converter leaves JAX behind in this process, and forks.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of our own, with our own adb key."""
    folder = tmp_path_factory.mktemp("home")
    made_phone()  # it lies in the real home
    os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("ANDROID_SERIAL", raising=False)
        yield folder


@pytest.fixture(scope="module")
def phone(home):
    [key, *_] = load_keys(home / ".config" / "edgewright")
    with running_phone("--secure", "--key", f"{key.path}.pub") as started:
        yield started


@pytest.fixture(scope="module")
def ways(home, phone, tmp_path_factory):
    """The phone's specs: straight to its daemon, and through an adb server that has our key."""
    folder = tmp_path_factory.mktemp("adb")
    shutil.copytree(home / ".config" / "edgewright", folder / ".android")
    with running_adb_server(folder) as server:
        server.run("connect", phone.serial)
        yield {
            "direct": f"adb:direct:{phone.serial}",
            "server": f"adb:server@{server.port}:{phone.serial}",
        }


@pytest.fixture(scope="module")
def built(home, tmp_path_factory):
    """Compile a model for the phone by the command; return the folder."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "net.py").write_text(NET, encoding="utf-8")

    @cache
    def made(target, model):
        spec = f"{folder}/net.py:net" if model == "net" else model
        out = folder / f"{target}-{len(list(folder.iterdir()))}"
        options = ["--profile", "standin", "--target", target, "--randomize", "3", "-o", str(out)]
        assert main(["compile", spec, *options]) == 0
        return spec, out

    return made


def agrees(spec: str, out: Path, device: str) -> float:
    """Return how far the phone's outputs are from torch's in float64, over the largest output."""
    artifact, profile = read_artifact(out), load_profile("standin")
    loaded = load_model(spec, randomize=3)
    inputs = list(loaded.args)
    with torch.no_grad():
        wanted = loaded.module.double()(*(x.double() for x in inputs))
    runtime = get_target(str(artifact.manifest["target"]))
    [[found]] = infer(artifact, runtime, profile, [inputs], device=open_device(device))
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def shown(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("target", "way"), CASES)
def test_a_program_agrees_with_torch_on_the_phone_and_is_measured(target, way, built, ways, capsys, tmp_path):
    spec, out = built(target, "net")
    device = ways[way]
    assert agrees(spec, out, device) < ERROR
    options = [
        "--device",
        device,
        "--max-rounds",
        "3",
        "--allow-unstable",
        "--database",
        str(tmp_path / "m.db"),
    ]
    capsys.readouterr()
    assert main(["profile", str(out), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fingerprint"]["model"] == "Stand-in Phone" and document["rounds"] == 3
    assert document["load_ns"] > 0 and document["first_ns"] > 0 and document["size_bytes"] > 0
    assert document["peak_rss_bytes"] > 1 << 20


@pytest.mark.parametrize("target", ["litert", "onnxruntime", "tvm"])
def test_operations_by_module_on_the_phone(target, built, ways, capsys):
    _, out = built(target, "net")
    capsys.readouterr()
    code = main(["profile", str(out), "--device", ways["direct"], "--per-op"])
    printed = capsys.readouterr()
    if target in BY_OPERATION:
        assert code == 0 and "stem" in printed.out and "head" in printed.out
    else:
        assert code == 2 and "gives no times by operation" in printed.err


def test_the_phone_is_listed_shown_and_examined(ways, phone, monkeypatch, capsys):
    port = ways["server"].split("@")[1].split(":")[0]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    capsys.readouterr()
    assert main(["devices"]) == 0 and phone.serial in shown(capsys)
    assert main(["devices", ways["direct"]]) == 0 and "Stand-in Phone" in shown(capsys)
    code = main(["doctor", "--device", ways["direct"]])
    assert (code, "0 fail" in (said := shown(capsys))) == (0, True), said


@pytest.mark.slow
@pytest.mark.parametrize("target", list_targets())
def test_mobileone_agrees_with_torch_on_the_phone(target, built, ways, capsys):
    spec, out = built(target, LARGE)
    assert agrees(spec, out, ways["direct"]) < ERROR
    options = ["--device", ways["direct"], "--max-rounds", "3", "--allow-unstable"]
    assert main(["profile", str(out), *options]) == 0
    assert "median" in shown(capsys)
