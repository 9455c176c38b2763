"""What a Linux or Android system tells of its processors and memory, read with one shell command.

`SCRIPT` prints sections, each after a line `@ its name`; `parse` makes a `Topology` of the text. What a
system denies (SELinux keeps parts of /sys from Android's shell) is absent, never a guess. Run on
the dumps of two Pixel phones and on the stand-in; on a phone at hand it is unverified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.device import Cluster, Device
from compiler.errors import DeviceError
from devices.cores import CORES

CPU = "/sys/devices/system/cpu"
# Few processes: a phone forks slowly, and an emulated shell that forks often dies of it now and then.
SCRIPT = f"""
for f in cpuinfo meminfo; do echo "@ /proc/$f"; cat /proc/$f; done 2>/dev/null
echo "@ uname"; uname -m
for f in model compatible; do
  [ -r /proc/device-tree/$f ] && echo "@ device-tree/$f" && tr '\\000' ' ' < /proc/device-tree/$f && echo
done
echo "@ sysfs"
grep -H "" {CPU}/possible {CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq {CPU}/cpu[0-9]*/cpu_capacity \\
  {CPU}/cpu[0-9]*/regs/identification/midr_el1 2>/dev/null
echo "@ getprop"; getprop 2>/dev/null
true
"""
# Features of /proc/cpuinfo that decide which arithmetic a kernel can use; the others are left out.
ARITHMETIC = (
    "fp asimd aes pmull sha1 sha2 crc32 atomics asimdhp asimdrdm asimddp asimdfhm i8mm bf16 sve sve2 svei8mm "
    "svebf16 sme sse4_2 f16c fma avx avx2 avx_vnni avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16"
)


@dataclass(frozen=True)
class Topology:
    """Clusters from slow to fast, what all processors can do, memory, and the system's words for itself."""

    machine: str
    clusters: tuple[Cluster, ...]
    features: frozenset[str]
    memory_mb: int | None
    model: str
    soc: str
    abis: tuple[str, ...] = ()

    @property
    def isa(self) -> tuple[str, ...]:
        """The features of arithmetic, in the words of /proc/cpuinfo."""
        return tuple(name for name in ARITHMETIC.split() if name in self.features)


@dataclass(frozen=True)
class _Processor:
    number: int
    core: str
    max_mhz: float | None
    capacity: int | None

    @property
    def kind(self) -> tuple[str, float | None, int | None]:
        return self.core, self.max_mhz, self.capacity


def read_topology(device: Device) -> Topology:
    """Return what a device tells; DeviceError where it tells nothing that can be read."""
    done = device.run(["sh", "-c", SCRIPT], timeout_s=60)
    topology = parse(done.stdout)
    if not topology.machine:
        raise DeviceError(
            f"{device.name} does not tell what it is: `sh` ended with {done.exit_code} and said "
            f"{(done.stderr or done.stdout).strip()[-300:]!r}"
        )
    return topology


def parse(text: str) -> Topology:
    """Return what the output of `SCRIPT` tells."""
    files = _files(text)
    info = _processors_of(files.get("/proc/cpuinfo", ""))
    processors = [_processor(number, files, info) for number in _numbers(files, info)]
    clusters = _clusters(processors)
    features = [
        frozenset((fields.get("Features") or fields.get("flags", "")).split()) for fields in info.values()
    ]
    return Topology(
        machine=files.get("uname", ""),
        clusters=clusters,
        features=frozenset.intersection(*features) if features else frozenset(),
        memory_mb=_memory_mb(files.get("/proc/meminfo", "")),
        model=_model(files),
        soc=_soc(files),
        abis=tuple(abi for abi in files.get("ro.product.cpu.abilist", "").split(",") if abi),
    )


def _files(text: str) -> dict[str, str]:
    """Return the sections, and the files and properties that two of them list."""
    parts = re.split(r"^@ (.+)$", text, flags=re.MULTILINE)
    sections = {name.strip(): content.strip() for name, content in zip(parts[1::2], parts[2::2], strict=True)}
    files = dict(re.findall(r"^(/[^:]+):(.*)$", sections.get("sysfs", ""), re.MULTILINE))
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]", sections.get("getprop", ""), re.MULTILINE))
    return sections | files | properties


def _processors_of(cpuinfo: str) -> dict[int, dict[str, str]]:
    # A block a processor; old kernels put what all share (Hardware) into a block without a number.
    found: dict[int, dict[str, str]] = {}
    for block in re.split(r"\n\s*\n", cpuinfo):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if fields.get("processor", "").isdigit():
            found[int(fields["processor"])] = fields
    return found


def _features(fields: Mapping[str, str]) -> frozenset[str]:
    return frozenset((fields.get("Features") or fields.get("flags", "")).split())


def _numbers(files: Mapping[str, str], info: Mapping[int, object]) -> list[int]:
    listed = re.findall(r"(\d+)(?:-(\d+))?", files.get(f"{CPU}/possible", ""))
    possible = {n for low, high in listed for n in range(int(low), int(high or low) + 1)}
    seen = {int(n) for name in files for n in re.findall(rf"^{CPU}/cpu(\d+)/", name)} | set(info)
    return sorted(seen & possible or seen)


def _processor(number: int, files: Mapping[str, str], info: Mapping[int, Mapping[str, str]]) -> _Processor:
    khz = files.get(f"{CPU}/cpu{number}/cpufreq/cpuinfo_max_freq", "")
    capacity = files.get(f"{CPU}/cpu{number}/cpu_capacity", "")
    return _Processor(
        number=number,
        core=_core(files.get(f"{CPU}/cpu{number}/regs/identification/midr_el1", ""), info.get(number, {})),
        max_mhz=int(khz) / 1e3 if khz.isdigit() else None,
        capacity=int(capacity) if capacity.isdigit() else None,
    )


def _core(midr: str, fields: Mapping[str, str]) -> str:
    implementer, part = fields.get("CPU implementer"), fields.get("CPU part")
    if re.fullmatch(r"0x[0-9a-fA-F]+", midr):
        value = int(midr, 16)
        numbers = value >> 24 & 0xFF, value >> 4 & 0xFFF
    elif implementer and part:
        numbers = int(implementer, 16), int(part, 16)
    else:
        return fields.get("model name", "")
    core = CORES.get(numbers)
    return core.name if core else f"implementer {numbers[0]:#x} part {numbers[1]:#x}"


def _clusters(processors: list[_Processor]) -> tuple[Cluster, ...]:
    kinds: dict[tuple[str, float | None, int | None], list[int]] = {}
    for processor in processors:
        kinds.setdefault(processor.kind, []).append(processor.number)
    # From slow to fast: by capacity where the system tells it, or else by clock, then by number.
    order = sorted(kinds.items(), key=lambda item: (item[0][2] or 0, item[0][1] or 0, item[1][0]))
    names = _names([len(cpus) for _, cpus in order])
    return tuple(
        Cluster(name, tuple(cpus), core or None, mhz)
        for name, ((core, mhz, _), cpus) in zip(names, order, strict=True)
    )


def _names(sizes: list[int]) -> tuple[str, ...]:
    if len(sizes) < 3:
        return ((), ("all",), ("little", "big"))[len(sizes)]
    fastest = "prime" if sizes[-1] == 1 else "big"
    between = ("mid",) if len(sizes) == 3 else tuple(f"mid-{i + 1}" for i in range(len(sizes) - 2))
    return ("little", *between, fastest)


def _memory_mb(meminfo: str) -> int | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(total[1]) // 1024 if total else None


def _model(files: Mapping[str, str]) -> str:
    return files.get("ro.product.model") or files.get("device-tree/model", "")


def _soc(files: Mapping[str, str]) -> str:
    android = f"{files.get('ro.soc.manufacturer', '')} {files.get('ro.soc.model', '')}".strip()
    hardware = re.search(r"^Hardware\s*: (.+)$", files.get("/proc/cpuinfo", ""), re.MULTILINE)
    tree = files.get("device-tree/compatible", "").split()
    platform = files.get("ro.board.platform", "")
    return android or (hardware[1].strip() if hardware else "") or platform or (tree[-1] if tree else "")
