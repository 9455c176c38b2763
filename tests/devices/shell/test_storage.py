"""The private folder behind a shell: resuming, damage, full and foreign folders. This machine's sh stands in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from compiler.errors import DeviceError, UsageError
from devices import linux
from devices.shell import ShellDevice
from devices.shell.archive import write_archive
from devices.shell.scripts import parse_cpu_list, quoted, run_script
from devices.shell.storage import Storage
from tests.devices.local_shell import LocalShell


@pytest.fixture
def shell(tmp_path: Path):
    made = LocalShell(tmp_path, os.environ["PATH"])
    yield made
    made.close()


@pytest.fixture
def device(shell) -> ShellDevice:
    made = ShellDevice(shell, linux, '"$HOME"/ours')
    made.storage = Storage(shell, made.execute, '"$HOME"/ours', chunk=1000)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "it's a; file\n"
    path.write_bytes(os.urandom(4321))
    return path


def left(tmp_path: Path, *folders: str) -> list[Path]:
    return [path for folder in folders for path in (tmp_path / "ours" / folder).iterdir()]


def test_a_file_travels_in_pieces_and_nothing_else_is_left(device, shell, source, tmp_path: Path) -> None:
    there = Path(device.push(source))
    assert there.read_bytes() == source.read_bytes() and there.name == source.name
    assert len(shell.sent) == 5
    assert left(tmp_path, "partial", "work") == []
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o700
    device.push(source)
    assert len(shell.sent) == 5


def test_a_push_that_broke_off_goes_on_at_its_piece(device, shell, source) -> None:
    shell.break_after = 3
    with pytest.raises(DeviceError, match="was lost"):
        device.push(source)
    shell.break_after = None
    shell.sent.clear()
    there = device.push(source)
    assert len(shell.sent) == 2  # three of five pieces were there
    assert Path(there).read_bytes() == source.read_bytes()


def test_a_folder_that_broke_off_goes_on_too(device, shell, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "empty").mkdir(parents=True)
    (folder / "-r\n").write_bytes(os.urandom(3000))
    (folder / "link").symlink_to("-r\n")
    os.link(folder / "-r\n", folder / "hard")
    shell.break_after = 2
    with pytest.raises(DeviceError, match="was lost"):
        device.push(folder)
    shell.break_after = None
    there = Path(device.push(folder))
    names = sorted(path.name for path in there.iterdir())
    assert names == ["-r\n", "empty", "hard", "link"]
    assert all((there / n).read_bytes() == (folder / "-r\n").read_bytes() for n in ("-r\n", "hard", "link"))
    assert not (there / "link").is_symlink()
    sent = len(shell.sent)
    assert Path(device.push(folder)) == there and len(shell.sent) == sent


def test_an_archive_depends_on_the_content_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("x", "y") if name == "a" else ("y", "x"):
            (tmp_path / name / file).write_text(file)
        write_archive(tmp_path / name, tmp_path / f"{name}.tar")
        os.utime(tmp_path / "a" / "x", (1, 1))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_what_arrives_damaged_is_sent_again_and_then_refused(device, shell, source) -> None:
    spoiled = iter([b"!"])
    shell.spoil = lambda block: next(spoiled, b"") + block[1:] if len(shell.sent) == 2 else block
    assert Path(device.push(source)).read_bytes() == source.read_bytes()
    assert len(shell.sent) == 10
    shell.spoil = lambda block: b"!" * len(block)
    source.write_bytes(b"other" * 100)
    with pytest.raises(DeviceError, match="arrived damaged on here, 2 times"):
        device.push(source)
    with device.workspace() as workspace, pytest.raises(DeviceError, match="it arrived damaged"):
        device.push(source, workspace)


def test_a_damaged_pull_is_refused_and_leaves_nothing(device, shell, source, tmp_path: Path) -> None:
    there = device.push(source)
    shell.spoil = lambda block: block[:-1] + b"!"
    with pytest.raises(DeviceError, match="arrived damaged"):
        device.pull(there, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_file_that_changes_while_it_is_pushed_is_refused(device, shell, source) -> None:
    def change(block: bytes) -> bytes:
        source.write_bytes(b"x" * 4321)
        return block

    shell.spoil = change
    with pytest.raises(DeviceError, match="changed while it was being pushed"):
        device.push(source)


def test_without_sha256sum_the_size_is_compared(shell, source, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in [
        "sh",
        "mkdir",
        "stat",
        "id",
        "chmod",
        "wc",
        "tr",
        "cut",
        "cat",
        "mv",
        "rm",
        "tar",
        "cksum",
        "dirname",
        "printf",
        "test",
    ]:
        for folder in ("/usr/bin", "/bin"):
            if Path(folder, name).exists() and not (tools / name).exists():
                (tools / name).symlink_to(Path(folder, name))
    bare = LocalShell(tmp_path, str(tools))
    device = ShellDevice(bare, linux, '"$HOME"/ours')
    assert Path(device.push(source)).read_bytes() == source.read_bytes()
    bare.spoil = lambda block: block[:-1]
    source.write_bytes(b"shorter")
    with pytest.raises(DeviceError, match="damaged"):
        device.push(source)
    bare.close()


def test_a_folder_that_is_not_ours_or_cannot_be_made_is_refused(shell, source, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to("elsewhere")
    with pytest.raises(DeviceError, match="is not ours"):
        ShellDevice(shell, linux, '"$HOME"/linked').push(source)
    with pytest.raises(DeviceError, match="is not ours"):
        ShellDevice(shell, linux, '"$HOME"/linked').clean()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeviceError, match=r"cannot push .* on here: .*(Not a directory|File exists)"):
        ShellDevice(shell, linux, '"$HOME"/file').push(source)


def test_clean_removes_our_folder_and_nothing_else(device, source, tmp_path: Path) -> None:
    device.push(source)
    assert device.clean() >= 4096
    assert not (tmp_path / "ours").exists() and source.exists()
    assert device.clean() == 0


def test_only_files_go_into_a_workspace(device, tmp_path: Path) -> None:
    with device.workspace() as workspace, pytest.raises(UsageError, match="it is not a file"):
        device.push(tmp_path, workspace)


def test_what_a_shell_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="zero byte"):
        quoted("a\0b")
    with pytest.raises(UsageError, match="'A B' is not the name of an environment variable"):
        run_script(["true"], {"A B": ""})


def test_cpu_lists() -> None:
    assert parse_cpu_list("Cpus_allowed_list:\t0-2,5,7-8\n") == (0, 1, 2, 5, 7, 8)
    assert parse_cpu_list("") == ()
