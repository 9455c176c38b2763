"""Folders made of pinned packages and wheels, and what a device is given of them."""

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import pytest

from compiler.device import Completed
from compiler.errors import DeviceError
from devices.bundle import assemble, fetch, install, launcher, pins
from devices.bundle.debian import unpack
from devices.bundle.pins import Package, Pins, Wheel


def member(name, content):
    return (
        f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n".encode()
        + content
        + b"\n" * (len(content) % 2)
    )


def deb(path, files, links=()):
    """Write a Debian package of files (name: (content, mode)) and links (name: target)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, (content, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
        for name, target in dict(links).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    path.write_bytes(
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", b"odd")
        + member("data.tar.xz", stream.getvalue())
    )
    return path


FILES = {
    "./lib/aarch64-linux-gnu/libc.so.6": (b"c", 0o755),
    "./usr/bin/tool": (b"#!", 0o755),
    "./usr/share/doc/tool/copyright": (b"words", 0o644),
    "./usr/lib/python3.11/hello.py": (b"WORD = 'hello'\n", 0o644),
    "./../outside": (b"!", 0o644),
}
LINKS = {
    "./lib/ld.so": "aarch64-linux-gnu/libc.so.6",
    "./usr/bin/other": "/lib/aarch64-linux-gnu/libc.so.6",
    "./usr/bin/lost": "/etc/alternatives/lost",
}


def test_a_package_is_unpacked_below_usr_and_nowhere_else(tmp_path):
    root = tmp_path / "root"
    unpack(deb(tmp_path / "x.deb", FILES, LINKS), root)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root", "x.deb"]
    assert [p.name for p in root.iterdir()] == ["usr"]
    for link in ("usr/lib/ld.so", "usr/bin/other"):
        assert (root / link).read_bytes() == b"c" and (root / link).is_symlink()
    assert (root / "usr/bin/tool").stat().st_mode & 0o111
    assert not (root / "usr/lib/python3.11/hello.py").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("content", "words"), [(b"nonsense", "is not a Debian package"), (b"!<arch>\n", "holds no files")]
)
def test_what_is_no_package_is_refused(content, words, tmp_path):
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(DeviceError, match=words):
        unpack(tmp_path / "x.deb", tmp_path / "root")


@pytest.fixture
def pinned(tmp_path):
    """Pins of one package and one wheel that lie in the cache already."""
    folder = tmp_path / "cache" / assemble.DOWNLOADS
    folder.mkdir(parents=True)
    package = deb(folder / "x.deb", FILES, LINKS)
    with zipfile.ZipFile(folder / "y.whl", "w") as archive:
        archive.writestr("y/__init__.py", "")
        archive.writestr("y/tests/test_y.py", "")
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("x.deb", "y.whl")]
    return Pins(
        "part",
        (Package("x", "arm64", "1", f"http://127.0.0.1:9/{package.name}", digests[0]),),
        (Wheel("y", "1", "y.whl", digests[1]),),
        drop=("usr/share", "**/tests", "nothing/*"),
    )


def test_a_part_is_made_once_without_what_is_dropped(pinned, tmp_path):
    place = assemble.assembled(pinned, tmp_path / "cache", compiled=True)
    files = {str(p.relative_to(place)) for p in place.rglob("*") if not p.is_dir()}
    assert "usr/share/doc/tool/copyright" not in files and "y/tests/test_y.py" not in files
    assert {"usr/bin/tool", "y/__init__.py", "usr/lib/python3.11/__pycache__/hello.cpython-311.pyc"} <= files
    assert "usr/bin/other" in files and "usr/bin/lost" not in files  # a device could not be given it
    (place / "mark").touch()
    assert (
        assemble.assembled(pinned, tmp_path / "cache", compiled=True) == place and (place / "mark").exists()
    )
    assert sorted(p.name for p in place.parent.iterdir()) == [".part.lock", place.name]


def test_modules_are_compiled_by_content(pinned, tmp_path):
    place = assemble.assembled(pinned, tmp_path / "cache", compiled=True)
    header = (place / "usr/lib/python3.11/__pycache__/hello.cpython-311.pyc").read_bytes()[4:8]
    assert int.from_bytes(header, "little") == 0b01  # by hash, and the hash is not checked


def test_a_part_that_fails_leaves_nothing(pinned, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "APT_HELPER", tmp_path / "no apt")
    (tmp_path / "cache" / assemble.DOWNLOADS / "x.deb").write_bytes(b"")
    with pytest.raises(DeviceError, match=r"cannot fetch the Debian package x 1"):
        assemble.assembled(pinned, tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache" / "bundles").iterdir()] == [".part.lock"]


def test_other_contents_have_another_digest(pinned):
    assert replace(pinned, snapshot="later", name="same").digest() == pinned.digest()
    assert replace(pinned, drop=()).digest() != pinned.digest()
    assert replace(pinned, wheels=()).digest() != pinned.digest()


def test_every_pin_of_the_project_is_whole():
    paths = [*pins.FOLDER.glob("*.toml"), *pins.FOLDER.parent.rglob("transports/*/qemu.toml")]
    assert {p.stem for p in paths} == {"base", "executorch", "litert", "onnxruntime", "qemu"}
    for path in paths:
        found = pins.read_pins(path)
        files = [*found.packages, *found.wheels]
        assert len({(f.name, getattr(f, "arch", "")) for f in files}) == len(files) > 0
        assert all(len(f.sha256) == 64 and f.file and f.version for f in files)
        assert all("/pool/" in p.url and found.snapshot for p in found.packages)
        assert all("aarch64" in w.file or "none-any" in w.file for w in found.wheels)
        assert path.read_text().endswith("\n".join(pins.entry(f) for f in files))


class Recorder:
    """A device that notes what it is given."""

    name = "phone"

    def __init__(self, says="aarch64\n/system/bin/sh\n", code=0, place="/data/it's here"):
        self.says, self.code, self.place, self.pushed = says, code, place, {}

    def run(self, command, env=None, timeout_s=600.0):
        return Completed(self.code, self.says, "")

    def push(self, path, workspace=None):
        self.pushed[path.name] = path.read_text() if path.is_file() else None
        return f"{self.place}/{path.name}"


@pytest.fixture
def parts(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "base", lambda cache: tmp_path / "base-1")
    monkeypatch.setattr(launcher, "site", lambda cache, runtime: tmp_path / f"{runtime}-2")
    for name in ("base-1", "litert-2"):
        (tmp_path / name).mkdir()


def test_a_device_gets_a_launcher_that_names_what_was_pushed(parts, tmp_path):
    device = Recorder()
    path = install(device, "litert", tmp_path)
    assert path == "/data/it's here/python-litert" and list(device.pushed) == [
        "base-1",
        "litert-2",
        "python-litert",
    ]
    text = device.pushed["python-litert"]
    assert text.startswith("#!/system/bin/sh\n") and "PYTHONPATH='/data/it'\"'\"'s here/litert-2'" in text
    assert text.splitlines()[-1].startswith(
        "exec '/data/it'\"'\"'s here/base-1/usr'/lib/ld-linux-aarch64.so.1 --library-path"
    )


def test_a_launcher_hands_its_arguments_over(parts, tmp_path):
    device = Recorder(says="aarch64\n/bin/sh\n", place=str(tmp_path))
    loader = tmp_path / "base-1" / "usr" / "lib" / "ld-linux-aarch64.so.1"
    loader.parent.mkdir(parents=True)
    loader.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$PYTHONHOME" "$PYTHONPATH" "${LD_LIBRARY_PATH-none}" "$@"\n'
    )
    loader.chmod(0o755)
    script = tmp_path / "script"
    install(device, "litert", tmp_path)
    script.write_text(device.pushed["python-litert"])
    script.chmod(0o755)
    environment = {**os.environ, "LD_LIBRARY_PATH": "/x"}
    said = subprocess.run([script, "a b", "$c"], capture_output=True, text=True, env=environment, check=True)
    usr = f"{tmp_path}/base-1/usr"
    libraries = ("--library-path", f"{usr}/lib/aarch64-linux-gnu", f"{usr}/bin/python3.11")
    assert said.stdout.splitlines() == [usr, f"{tmp_path}/litert-2", "none", *libraries, "a b", "$c"]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Recorder(says="armv7l\n/bin/sh\n"), "bundles are for aarch64 Linux, phone is armv7l"),
        (Recorder(says="oops", code=127), "does not say what it is: 'oops'"),
    ],
)
def test_a_device_without_a_bundle_is_refused(device, words, parts, tmp_path):
    with pytest.raises(DeviceError, match=words):
        install(device, "litert", tmp_path)
    assert device.pushed == {}


def test_a_runtime_without_a_bundle_is_named(tmp_path):
    with pytest.raises(DeviceError, match=r"no bundle of the runtime 'tvm'.*executorch, litert, onnxruntime"):
        assemble.site(tmp_path, "tvm")
