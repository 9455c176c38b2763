"""What a system tells of its processors, read from the dumps of two Pixel phones and from made-up ones."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from compiler.device import Cluster, Completed
from compiler.errors import DeviceError
from devices.cores import CORES, core_named
from devices.topology import CPU, SCRIPT, parse, read_topology

DATA = Path(__file__).parent / "data"
PIXEL_1 = (DATA / "pixel_1.txt").read_text()
PIXEL_8 = (DATA / "pixel_8.txt").read_text()


def sysfs(*processors: tuple[int, str, int | None, int | None], possible: str = "") -> str:
    lines = ["@ sysfs", *([f"{CPU}/possible:{possible}"] if possible else [])]
    for number, midr, khz, capacity in processors:
        told = {
            "regs/identification/midr_el1": midr,
            "cpufreq/cpuinfo_max_freq": khz,
            "cpu_capacity": capacity,
        }
        lines += [f"{CPU}/cpu{number}/{name}:{value}" for name, value in told.items() if value]
    return "\n".join((*lines, ""))


def test_the_two_kinds_of_kryo_of_a_pixel() -> None:
    found = parse(PIXEL_1)
    assert found.clusters == (
        Cluster("little", (0, 1), "kryo", 1593.6),
        Cluster("big", (2, 3), "kryo", 2150.4),
    )
    assert (found.model, found.soc) == ("Pixel", "Qualcomm Technologies, Inc MSM8996pro")
    assert (found.machine, found.abis[0], found.isa[:2]) == ("aarch64", "arm64-v8a", ("fp", "asimd"))


def test_the_three_clusters_of_a_pixel_8() -> None:
    found = parse(PIXEL_8)
    assert found.clusters == (
        Cluster("little", (0, 1, 2, 3), "cortex-a510", 1704),
        Cluster("mid", (4, 5, 6, 7), "cortex-a715", 2367),
        Cluster("prime", (8,), "cortex-x3", 2914),
    )
    assert (found.soc, {"sve2", "i8mm", "asimddp"} <= set(found.isa)) == ("zuma", True)


def test_clusters_are_ordered_by_capacity_and_a_processor_that_sleeps_is_known_by_its_midr() -> None:
    # A core of a higher clock may be the weaker one; cpu3 is off, so /proc/cpuinfo lacks it.
    text = sysfs(
        (0, "0x00000000410fd0b0", 2000000, 1024),
        (1, "0x00000000410fd0b0", 2000000, 1024),
        (2, "0x00000000410fd050", 2200000, 400),
        (3, "0x00000000410fd050", 2200000, 400),
    )
    names = [(c.name, c.core, c.cpus) for c in parse(text).clusters]
    assert names == [("little", "cortex-a55", (2, 3)), ("big", "cortex-a76", (0, 1))]


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ((4,), ("all",)),
        ((3, 2, 2, 1), ("little", "mid-1", "mid-2", "prime")),
        ((4, 2, 2), ("little", "mid", "big")),
    ],
)
def test_the_names_of_clusters(kinds, names) -> None:
    numbers = [(i, kind) for kind, count in enumerate(kinds) for i in range(count)]
    text = sysfs(*((n, "", 1000 * (kind + 1), None) for n, (_, kind) in enumerate(numbers)))
    found = parse(text).clusters
    assert tuple(c.name for c in found) == names and tuple(len(c.cpus) for c in found) == kinds


def test_what_is_denied_is_absent() -> None:
    found = parse(
        "@ uname\naarch64\n@ /proc/cpuinfo\nprocessor : 0\nCPU implementer : 0x99\nCPU part : 0x1\n"
    )
    assert found.clusters == (Cluster("all", (0,), "implementer 0x99 part 0x1"),)
    assert (found.memory_mb, found.model, found.soc, found.isa, found.abis) == (None, "", "", (), ())
    assert parse("").clusters == ()


def test_only_what_all_processors_can_do_counts_and_memory_is_in_mib() -> None:
    text = "@ /proc/meminfo\nMemTotal:        4005888 kB\n@ /proc/cpuinfo\n"
    text += "processor : 0\nFeatures : fp asimd asimddp\n\nprocessor : 1\nFeatures : fp asimd\n"
    assert (parse(text).isa, parse(text).memory_mb) == (("fp", "asimd"), 3912)


def test_processors_that_cannot_be_there_are_not_listed() -> None:
    text = sysfs(*((n, "", 1000, None) for n in (0, 1, 2, 4)), possible="0-1,4")
    assert parse(text).clusters[0].cpus == (0, 1, 4)


def test_the_script_runs_in_a_plain_shell_and_its_text_is_read_back() -> None:
    done = subprocess.run(["sh", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = parse(done.stdout)
    assert found.machine and found.memory_mb and found.clusters


@dataclass
class Silent:
    name: str = "silent"

    def run(self, command, env=None, timeout_s=600.0) -> Completed:
        return Completed(127, "", "sh: not found")


def test_a_device_that_tells_nothing_is_refused_with_what_it_said() -> None:
    with pytest.raises(DeviceError, match=r"silent does not tell what it is: .* 127 .*sh: not found"):
        read_topology(Silent())


def test_a_core_with_sve_that_programs_may_not_use_gets_code_of_version_8() -> None:
    core = core_named("cortex-x3")
    assert (core.cpu(frozenset({"sve2"})), core.cpu(frozenset())) == ("cortex-x3", "cortex-a78")
    assert core_named("cortex-a76").cpu(frozenset()) == "cortex-a76"
    assert core_named("Intel") is None and core_named(None) is None


@pytest.mark.target
def test_llvm_knows_every_core_and_every_processor_of_a_profile() -> None:
    from profiles import list_profiles, load_profile
    from targets.tvm.processor import stated

    stating = [p for p in map(load_profile, list_profiles()) if p.arch is not None]
    assert stating and all(stated(p).arch == "aarch64" for p in stating)
    from tvm.target import Target, codegen

    known = codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": "aarch64-linux-musl"}))
    assert {core.name for core in CORES.values()} <= {str(name) for name in known}
