"""A profile written from what a device reports: it loads strictly and says where each fact was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from compiler.device import Completed
from compiler.errors import DeviceError, UsageError
from compiler.records import Metric
from edgewright import detection
from edgewright.cli import main
from edgewright.detection import detect
from profiles import load_profile
from profiles.sources import source_of

DATA = Path(__file__).parent.parent / "devices" / "data"
DAY = date(2026, 11, 26)


@dataclass
class Phone:
    """Answers the script with a text, and lets programs be bound to `allowed` masks."""

    text: str
    allowed: tuple[str, ...] = ()
    name: str = "adb:SERIAL"
    asked: list[list[str]] = field(default_factory=list)

    def fingerprint(self) -> dict[str, str]:
        return {"model": "Pixel 8", "build": 'google/"shiba"', "soc": ""}

    def run(self, command, env=None, timeout_s=600.0) -> Completed:
        self.asked.append(list(command))
        if command[0] == "taskset":
            return Completed(0 if command[1] in self.allowed else 1, "", "")
        return Completed(0, self.text, "")


@pytest.fixture
def phone(monkeypatch):
    def _phone(text: str, *allowed: str, **more) -> Phone:
        made = Phone(text, allowed, **more)
        monkeypatch.setattr(detection, "open_device", lambda spec: made)
        return made

    return _phone


def test_a_pixel_8(phone, tmp_path: Path) -> None:
    phone((DATA / "pixel_8.txt").read_text(), "100")
    found = detect("adb:SERIAL", tmp_path / "mine.toml", DAY)
    profile = load_profile(tmp_path / "mine.toml")
    assert profile == found.profile
    assert (profile.name, profile.transport, profile.soc) == ("mine", "adb", "zuma")
    assert (profile.arch, profile.cpu, profile.cluster, profile.affinity) == (
        "aarch64",
        "cortex-x3",
        "prime",
        (8,),
    )
    assert profile.clusters == load_profile("pixel-8").clusters
    assert dict(profile.expect) == {"model": "Pixel 8", "build": 'google/"shiba"'}
    assert source_of("cluster.prime.core", profile.sources).startswith("read from the device on 2026-11-26")
    assert "expect.model" not in profile.sources and source_of("expect.model", profile.sources)


def test_the_shipped_pixels_agree_with_their_dumps(phone) -> None:
    for name in ("pixel-1", "pixel-8"):
        phone((DATA / f"{name.replace('-', '_')}.txt").read_text())
        found, shipped = detect("adb", today=DAY).profile, load_profile(name)
        assert [(c.cpus, c.core, c.max_mhz) for c in found.clusters] == [
            (c.cpus, c.core, c.max_mhz) for c in shipped.clusters
        ]
        assert set(shipped.isa) <= set(found.isa) and (found.arch, found.cpu) == (shipped.arch, shipped.cpu)


def test_where_no_program_can_be_bound_no_cluster_is_chosen(phone) -> None:
    device = phone((DATA / "pixel_1.txt").read_text())
    profile = detect("adb", today=DAY).profile
    assert ["taskset", "c", "true"] in device.asked
    assert (profile.cluster, profile.affinity, profile.name) == (None, (), "pixel")


def test_an_emulated_board_counts_instructions_and_is_asked_for_its_identity_only(phone) -> None:
    device = phone("", name="emulated:cortex-a53")
    profile = detect("emulated:cortex-a53", today=DAY).profile
    assert (profile.name, profile.cpu, profile.protocol.metric) == (
        "emulated-cortex-a53",
        "cortex-a53",
        Metric.INSTRUCTIONS,
    )
    assert device.asked == []


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("@ uname\narmv7l\n", "runs armv7l"),
        (
            "@ uname\naarch64\n@ getprop\n[ro.product.cpu.abilist]: [armeabi-v7a,armeabi]\n",
            "armeabi-v7a, armeabi",
        ),
    ],
)
def test_a_system_of_32_bits_is_refused(phone, text: str, needle: str) -> None:
    phone(text)
    with pytest.raises(UsageError, match=needle):
        detect("adb")


def test_the_local_device_names_no_processor_and_nothing_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "here.toml"
    profile = detect("local", file, DAY).profile
    assert (profile.arch, profile.cpu, profile.transport) == (None, None, "local")
    assert profile.clusters and profile.memory is not None
    with pytest.raises(UsageError, match="exists; give -o a new file"):
        detect("local", file)


def test_a_device_that_cannot_be_reached_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        detect("nowhere:1", tmp_path / "x.toml")
    assert not (tmp_path / "x.toml").exists()


def test_the_command_writes_a_profile_that_the_command_shows(tmp_path: Path, capsys) -> None:
    file = tmp_path / "here.toml"
    assert main(["profiles", "detect", "--device", "local", "-o", str(file)]) == 0
    assert main(["profiles", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "here: written to" in shown and "here: valid" in shown and "read from the device on" in shown
    assert main(["profiles", "detect"]) == 0
    assert "[device]\n" in capsys.readouterr().out


def test_profiles_lists_shows_and_refuses_as_before(capsys) -> None:
    assert main(["profiles"]) == 0
    assert "pixel-8" in capsys.readouterr().out
    assert main(["profiles", "--json", "pixel-8"]) == 0
    assert '"max_mhz": 2914.0' in capsys.readouterr().out
    assert main(["profiles", "pixel-9"]) == 2
    assert "did you mean 'pixel-" in capsys.readouterr().err
