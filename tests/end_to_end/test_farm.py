"""`edgewright farm`, and a device that is in use, from the command line."""

import json
import threading

import pytest

from devices import open_device
from devices.lease import lease
from edgewright.cli import main

NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), (torch.randn(1, 3, 8, 8),)


def batches():
    return [torch.randn(1, 3, 8, 8) for _ in range(8)]
"""
QUICK = """
[device]
name = "quick"
[reach]
transport = "local"
[run]
targets = ["executorch", "tvm"]
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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(NET)
    (folder / "quick.toml").write_text(QUICK)
    for target in ("executorch", "tvm"):
        common = ["compile", f"{folder / 'net.py'}:net", "--profile", str(folder / "quick.toml")]
        assert main([*common, "--target", target, "--out", str(folder / target)]) == 0
    return folder


@pytest.fixture
def taken():
    """This machine, held by another thread."""
    ready, free = threading.Event(), threading.Event()

    def hold():
        with lease(open_device("local")):
            ready.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(60)
    yield
    free.set()
    thread.join()


COMMANDS = {
    "profile": "profile {folder}/executorch",
    "per-op": "profile {folder}/executorch --per-op",
    "calibrate": "calibrate {folder}/net.py:net --target executorch",
    "tune": "tune {folder}/net.py:net --target tvm --trials 1",
    "auto": "compile {folder}/net.py:net --target auto --out {out}",
    "search": "search {folder}/net.py:net --latency-budget 0.9x --calibration {folder}/net.py:batches --out {out}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_measures_waits_for_the_device_or_says_who_has_it(
    command, files, taken, tmp_path, capsys
) -> None:
    arguments = COMMANDS[command].format(folder=files, out=tmp_path / "out").split()
    shared = ["--profile", str(files / "quick.toml"), "--wait", "0", "--database", str(tmp_path / "m.db")]
    shared = shared[:-2] if command == "per-op" else shared
    assert main([*arguments, *shared]) == 5
    assert (
        "the device 'local' is in use by another thread of this process; waited 0 s"
        in capsys.readouterr().err
    )


def test_a_farm_measures_every_artifact_and_takes_what_is_known(files, tmp_path, capsys) -> None:
    profile = ["--profile", str(files / "quick.toml"), "--database", str(tmp_path / "m.db")]
    artifacts = [str(files / "executorch"), str(files / "tvm")]
    arguments = ["farm", *artifacts, "--device", "local", "--allow-unstable", *profile]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["schema"] == "edgewright.farm/1" and document["failed"] == []
    assert [one["artifact"] for one in document["measurements"]] == artifacts
    assert all(one["median_ns"] > 0 and one["device"] == "local" for one in document["measurements"])
    assert [(d["device"], d["done"], d["reason"]) for d in document["devices"]] == [("local", 2, "")]
    assert "2 jobs on 1 devices of 1 kinds" in captured.err
    assert main(arguments) == 0
    assert "measured" in (shown := capsys.readouterr().out) and shown.count("local") == 3


def test_a_farm_without_a_device_ends_with_5(files, tmp_path, capsys) -> None:
    shared = ["--profile", str(files / "quick.toml"), "--database", str(tmp_path / "m.db")]
    assert main(["farm", str(files / "executorch"), "--device", "nowhere:1", *shared]) == 5
    assert "no device of the farm can be used: nowhere:1: there is no way to reach" in capsys.readouterr().err
    assert main(["farm", str(tmp_path), "--device", "local", *shared]) == 2
