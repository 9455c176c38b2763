"""The profile loader: what it reads, and how it refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from compiler.device import BenchmarkProtocol, Cluster, Memory
from compiler.errors import UsageError
from compiler.records import Metric
from profiles import list_profiles, load_profile
from profiles.sources import source_of
from profiles.tables import PROTOCOL

MINIMAL = """
[device]
name = "board"
[reach]
transport = "local"
[run]
targets = ["executorch"]
threads = 2
"""

READ = "https://example.org/soc (2026-11-26): its table"
FACTS = f"""
[[cluster]]
name = "little"
cpus = [0, 1]
[[cluster]]
name = "big"
cpus = [2, 3]
core = "cortex-a76"
max_mhz = 2400
[memory]
size_mb = 4096
[source]
cluster.little = "{READ}"
cluster.big.cpus = "{READ}"
"cluster.big" = "read from the device on 2026-11-26"
memory = "{READ}"
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "board.toml"
        path.write_text(text)
        return path

    return _write


def test_host_is_local_single_threaded_and_states_no_figures() -> None:
    host = load_profile("host")
    assert (host.name, host.transport, host.threads) == ("host", "local", 1)
    assert host.targets == ("executorch", "litert", "onnxruntime", "tvm")
    assert (host.soc, host.isa, host.affinity, dict(host.expect)) == (None, (), (), {})
    assert (host.arch, host.cpu) == (None, None)
    assert host.protocol == BenchmarkProtocol()


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads_under_its_file_name(name: str) -> None:
    assert load_profile(name).name == name


def test_all_fields_are_read(write) -> None:
    device = 'name = "board"\ndescription = "d"\nsoc = "s"\nisa = ["dotprod"]'
    text = MINIMAL.replace('name = "board"', device)
    text = text.replace("threads = 2", "threads = 2\naffinity = [4, 5]")
    text += '[protocol]\nmetric = "cpu"\nround_s = 1\nmin_rounds = 5\n[expect]\n"ro.build" = "x"\n'
    text += f'[source]\ndevice.soc = "{READ}"\ndevice.isa = "{READ}"\n'
    profile = load_profile(write(text))
    assert (profile.description, profile.soc, profile.isa) == ("d", "s", ("dotprod",))
    assert profile.affinity == (4, 5)
    assert (profile.protocol.metric, profile.protocol.min_rounds) == (Metric.CPU, 5)
    assert dict(profile.expect) == {"ro.build": "x"}


def test_the_loader_knows_every_field_of_the_protocol() -> None:
    assert set(PROTOCOL) == {f.name for f in fields(BenchmarkProtocol)}


def test_a_whole_number_of_seconds_gives_the_same_digest(write) -> None:
    whole = load_profile(write(MINIMAL + "[protocol]\nround_s = 1\n")).protocol_digest()
    assert whole == load_profile(write(MINIMAL + "[protocol]\nround_s = 1.0\n")).protocol_digest()


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        (("threads = 2", "thread = 2"), ["board.toml", "[run] thread", "did you mean 'threads'", "affinity"]),
        (("[run]", "[runs]"), ["[runs]", "did you mean 'run'", "device, reach, run, protocol, expect"]),
        (("threads = 2", 'threads = "2"'), ["[run] threads", "whole number", "'2'"]),
        (("threads = 2", "threads = 0"), ["[run] threads", "at least 1"]),
        (("threads = 2", "threads = true"), ["[run] threads", "True"]),
        (('["executorch"]', '"executorch"'), ["[run] targets", "list"]),
        (('["executorch"]', "[]"), ["[run] targets", "one or more"]),
        (('transport = "local"', ""), ["[reach] transport is missing"]),
        (("threads = 2", "threads = 2\naffinity = [1, 1]"), ["affinity", "different"]),
        (("threads = 2", "threads = 2\n[protocol]\nround_s = nan"), ["round_s", "nan"]),
        (("threads = 2", "threads = 2\n[protocol]\nround_ms = 3"), ["did you mean 'round_s'"]),
        (("threads = 2", 'threads = 2\n[protocol]\nmetric = "time"'), ["wall, cpu, instructions"]),
        (("threads = 2", "threads = 2\n[protocol]\nmin_rounds = 99"), ["min_rounds = 99", "max_rounds = 60"]),
        (("threads = 2", "threads = 2\n[expect]\nkernel = 6"), ["[expect] kernel", "string"]),
        (("[device]", "device = 3\n[other]"), ["device must be a table"]),
        (
            ("[device]", '[device]\narch = "arm64"'),
            ["[device] arch must be one of x86_64, aarch64", "'arm64'"],
        ),
        (("[device]", "[device]\narch = []"), ["[device] arch must be one of x86_64, aarch64"]),
        (("[device]", '[device]\narch = "aarch64"\ncpu = ""'), ["[device] cpu", "non-empty string"]),
        (
            ("[device]", '[device]\ncpu = "cortex-a76"'),
            ["[device] cpu stands alone", "one of x86_64, aarch64"],
        ),
        (("[run]", "[run"), ["not TOML", "line"]),
    ],
)
def test_refusals_name_the_file_the_key_and_what_is_accepted(write, change, needles) -> None:
    path = write(MINIMAL.replace(*change, 1))
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)
    assert [n for n in needles if n not in str(caught.value)] == []


def test_a_stated_processor_is_read_and_has_a_digest_of_its_own(write) -> None:
    plain = load_profile(write(MINIMAL))
    arch = load_profile(write(MINIMAL.replace("[device]", '[device]\narch = "aarch64"')))
    both = load_profile(write(MINIMAL.replace("[device]", '[device]\narch = "aarch64"\ncpu = "cortex-a76"')))
    assert (arch.arch, arch.cpu, both.cpu) == ("aarch64", None, "cortex-a76")
    assert len({plain.digest(), arch.digest(), both.digest()}) == 3
    assert plain.protocol_digest() == both.protocol_digest()


def test_a_digest_without_a_processor_is_the_one_it_always_was(write) -> None:
    assert load_profile(write(MINIMAL)).digest() == "ef2625b28fd654b0"


def test_on_this_machine_a_stated_processor_and_its_cpus_do_not_count(write) -> None:
    text = MINIMAL.replace("threads = 2", "threads = 2\naffinity = [6, 7]")
    here = load_profile(write(text))
    assert here.on_this_machine() is here
    phone = load_profile(write(text.replace("[device]", '[device]\narch = "aarch64"'))).on_this_machine()
    assert (phone.arch, phone.cpu, phone.affinity, phone.threads) == (None, None, (), 2)


def test_clusters_memory_and_their_sources_are_read(write) -> None:
    profile = load_profile(write(MINIMAL + FACTS))
    assert profile.clusters == (Cluster("little", (0, 1)), Cluster("big", (2, 3), "cortex-a76", 2400.0))
    assert profile.memory == Memory(size_mb=4096)
    assert source_of("cluster.big.cpus", profile.sources) == READ
    assert source_of("cluster.big.core", profile.sources) == "read from the device on 2026-11-26"
    assert source_of("device.soc", profile.sources) is None


def test_a_cluster_to_run_on_chooses_its_cpus(write) -> None:
    chosen = load_profile(write(MINIMAL.replace("threads", 'cluster = "big"\nthreads') + FACTS))
    by_number = load_profile(write(MINIMAL.replace("threads", "affinity = [2, 3]\nthreads") + FACTS))
    assert (chosen.cluster, chosen.affinity) == ("big", (2, 3))
    assert chosen.protocol_digest() == by_number.protocol_digest()


def test_facts_are_part_of_a_profile_but_do_not_shape_a_reading(write) -> None:
    plain, known = load_profile(write(MINIMAL)), load_profile(write(MINIMAL + FACTS))
    assert plain.digest() != known.digest()
    assert plain.protocol_digest() == known.protocol_digest()


def test_the_wording_of_a_source_is_no_fact(write) -> None:
    known = load_profile(write(MINIMAL + FACTS))
    assert load_profile(write(MINIMAL + FACTS.replace("its table", "its list"))).digest() == known.digest()


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        (("memory =", "memory.type ="), ["the fact memory.size_mb has no source", "add [source]"]),
        (('"cluster.big" =', '"cluster.big.core" ='), ["the fact cluster.big.max_mhz has no source"]),
        (("cluster.little", "cluster.litle"), ["the fact cluster.little.cpus has no source"]),
        (("memory =", 'device.soc = "a/b 2026-11-26"\nmemory ='), ["device.soc belongs to no value"]),
        (("the device on 2026-11-26", "the device"), ["[source] cluster.big", "the day", "2026-11-26"]),
        (("the device on 2026-11-26", "the device on 2026-13-26"), ["[source] cluster.big", "the day"]),
        (("the device on 2026-11-26", "a blog 2026-11-26"), ["[source] cluster.big", "a URL"]),
        (('name = "big"', 'name = "little"'), ["two clusters are called 'little'"]),
        (('name = "big"', 'name = "b.g"'), ["[cluster] name must be a word"]),
        (('name = "big"', ""), ["[cluster] name is missing"]),
        (("cpus = [2, 3]", "cpus = [1, 3]"), ["CPU 1 is in two clusters"]),
        (("cpus = [2, 3]", "cpus = []"), ["[cluster] cpus", "one or more"]),
        (("max_mhz", "max_khz"), ["[cluster] max_khz", "did you mean 'max_mhz'"]),
        (("size_mb = 4096", "size_mb = 3.5"), ["[memory] size_mb", "whole number"]),
    ],
)
def test_a_fact_that_is_wrong_or_unsourced_is_refused(write, change, needles) -> None:
    path = write(MINIMAL + FACTS.replace(*change, 1))
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    assert [n for n in (str(path), *needles) if n not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("run", "facts", "needle"),
    [
        ('cluster = "prime"', FACTS, "'prime' is no cluster here; known: little, big"),
        ('cluster = "prime"', "", "known: none, no [[cluster]] is stated"),
        ('cluster = "big"\naffinity = [1]', FACTS, "states affinity and cluster"),
        ("threads = 2", "[cluster]\nname = 3", "each written [[cluster]]"),
    ],
)
def test_a_cluster_that_cannot_be_run_on_is_refused(write, run, facts, needle) -> None:
    text = MINIMAL.replace("threads = 2", run if "threads" in run else f"{run}\nthreads = 2") + facts
    with pytest.raises(UsageError) as caught:
        load_profile(write(text))
    assert needle in str(caught.value)


def test_an_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(UsageError, match=r"'hots' \(did you mean 'host'\?\); known: .*host.*\.toml"):
        load_profile("hots")


def test_a_missing_file_and_bytes_that_are_not_text_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the profile"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not TOML"):
        load_profile(tmp_path / "bytes.toml")
