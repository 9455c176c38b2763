"""Programs for another processor, the twin that verifies them, and what takes the other route."""

import dataclasses
import struct

import pytest
import torch
from torch import nn

from compiler.errors import NumericError, UnsupportedModelError, UsageError
from compiler.records import Artifact
from compiler.target import FORWARD
from edgewright import compile
from profiles import load_profile
from targets.tvm import LIBRARY_TWIN, PROGRAM, processor
from targets.tvm.static import EXECUTABLE, TWIN, WEIGHTS
from targets.tvm.static.link import zig
from tests.targets.static.programs import (
    HERE,
    TARGET,
    Attention,
    stating,
)


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
