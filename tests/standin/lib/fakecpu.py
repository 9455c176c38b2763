"""What the stand-in says about its processor. The Features line must match qemu's -cpu: runtimes pick their kernels by
it, and a feature claimed but not emulated ends in SIGILL (one emulated but not claimed, in the slow kernels)."""

import re
import sys
from pathlib import Path

V80 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
CPUS = {  # qemu -cpu name: variant, part, revision, features, (LITTLE, big) clusters as (capacity, kHz steps)
    "cortex-a76": (
        "0x4",
        "0xd0b",
        1,
        V80 + " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        (
            (358, (300000, 576000, 768000, 1017600, 1248000, 1497600, 1804800)),
            (1024, (710400, 940800, 1171200, 1401600, 1708800, 2016000, 2419200)),
        ),
    ),
    "cortex-a53": (
        "0x0",
        "0xd03",
        4,
        V80 + " cpuid",
        (
            (705, (400000, 691200, 902400, 1094400, 1401600)),
            (1024, (652800, 1036800, 1401600, 1689600, 1958400, 2016000)),
        ),
    ),
}


def cpuinfo(cpu, n, hardware=None):
    var, part, rev, feat, _ = CPUS[cpu]
    fields = {
        "BogoMIPS\t": "108.00",
        "Features\t": feat,
        "CPU implementer\t": "0x41",
        "CPU architecture": "8",
        "CPU variant\t": var,
        "CPU part\t": part,
        "CPU revision\t": rev,
    }
    one = "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"
    return "".join(f"processor\t: {i}\n{one}" for i in range(n)) + (
        f"Hardware\t: {hardware}\n" if hardware else ""
    )


def possible():
    m = re.search(r"(\d+)\s*$", Path("/sys/devices/system/cpu/possible").read_text())
    return int(m[1]) + 1


if __name__ == "__main__":
    if sys.argv[2] not in CPUS:
        sys.exit(f"standin: error: --cpu must be one of: {' '.join(CPUS)}")
    if sys.argv[1] == "cpuinfo":
        sys.stdout.write(cpuinfo(sys.argv[2], possible()))
