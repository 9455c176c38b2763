"""Pinned files from a registry that answers, lies, breaks off, or is not there."""

import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from compiler.errors import DeviceError
from devices.bundle import fetch
from devices.bundle.pins import Package, Wheel

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Registry(http.server.BaseHTTPRequestHandler):
    """Serves one file under `/debian/pool`, in parts when asked, and notes what was asked for."""

    files: dict = {}  # noqa: RUF012  (each test sets its own)
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.asked.append((self.path, start))
        content = self.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def registry(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "APT_HELPER", tmp_path / "no apt")
    monkeypatch.setattr(fetch, "APT_SOURCES", tmp_path / "no sources")
    Registry.files, Registry.asked = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def package(registry, sha256=SHA256):
    url = f"{registry}/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"
    return Package("dash", "arm64", "0.5+b1", url, sha256)


def test_a_package_is_fetched_once(registry, tmp_path):
    Registry.files["/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"] = CONTENT
    for _ in range(2):
        place = fetch.fetch_package(package(registry), "", tmp_path / "cache")
        assert place == tmp_path / "cache" / "dash_0.5+b1_arm64.deb" and place.read_bytes() == CONTENT
    assert len(Registry.asked) == 1 and [p.name for p in place.parent.iterdir()] == [place.name]


def test_what_came_in_part_is_gone_on_with(registry, tmp_path):
    Registry.files["/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"] = CONTENT
    (tmp_path / "dash_0.5+b1_arm64.deb.part").write_bytes(CONTENT[:5000])
    assert fetch.fetch_package(package(registry), "", tmp_path).read_bytes() == CONTENT
    assert [start for _, start in Registry.asked] == [5000]


def test_a_damaged_copy_is_fetched_again(registry, tmp_path):
    Registry.files["/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"] = CONTENT
    (tmp_path / "dash_0.5+b1_arm64.deb").write_bytes(CONTENT[:-1])
    assert fetch.fetch_package(package(registry), "", tmp_path).read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(registry, tmp_path):
    Registry.files["/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"] = CONTENT + b"!"
    found = hashlib.sha256(CONTENT + b"!").hexdigest()
    with pytest.raises(
        DeviceError, match=f"pinned to sha256 {SHA256}(.|\n)*what it gives has sha256 {found}"
    ):
        fetch.fetch_package(package(registry), "", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_has_left_the_archive_says_what_to_do(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SNAPSHOT", f"{registry}/archive")
    words = (
        "dash 0.5.b1 for arm64(.|\n)*404(.|\n)*404(.|\n)*python -m devices.bundle.pin(.|\n)*lay the file at"
    )
    with pytest.raises(DeviceError, match=words):
        fetch.fetch_package(package(registry), "20260101T000000Z", tmp_path)
    assert [path for path, _ in Registry.asked] == [
        "/debian/pool/main/d/dash/dash_0.5%2bb1_arm64.deb",
        "/archive/debian/20260101T000000Z/pool/main/d/dash/dash_0.5%2bb1_arm64.deb",
    ]


def test_the_snapshot_stands_in_for_the_archive(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SNAPSHOT", f"{registry}/archive")
    Registry.files["/archive/debian/2026/pool/main/d/dash/dash_0.5%2bb1_arm64.deb"] = CONTENT
    assert fetch.fetch_package(package(registry), "2026", tmp_path).read_bytes() == CONTENT


def test_apt_s_mirrors_are_asked_first(tmp_path, monkeypatch):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://old/debian x main\ndeb [arch=amd64] https://mirror.example/debian/ bookworm main\n"
    )
    (tmp_path / "sources.list.d" / "more.sources").write_text(
        "Types: deb\nURIs: http://a.example/debian http://a.example/debian-security\nSuites: bookworm\n"
    )
    monkeypatch.setattr(fetch, "APT_SOURCES", tmp_path)
    pinned = Package("x", "arm64", "1", "http://deb.debian.org/debian-security/pool/x.deb", SHA256)
    assert fetch.addresses(pinned, "2026") == [
        "http://a.example/debian-security/pool/x.deb",
        "http://deb.debian.org/debian-security/pool/x.deb",
        "https://snapshot.debian.org/archive/debian-security/2026/pool/x.deb",
    ]
    plain = Package("x", "arm64", "1", "http://deb.debian.org/debian/pool/x.deb", SHA256)
    assert [a.split("/pool")[0] for a in fetch.addresses(plain, "")] == [
        "https://mirror.example/debian",
        "http://a.example/debian",
        "http://deb.debian.org/debian",
    ]


def test_wheels_that_are_there_need_no_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.subprocess, "run", None)
    (tmp_path / "a.whl").write_bytes(CONTENT)
    assert fetch.fetch_wheels([Wheel("a", "1", "a.whl", SHA256)], tmp_path) == [tmp_path / "a.whl"]


def test_pip_says_why_a_wheel_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = Wheel("edgewright-none", "1", "edgewright_none-1-py3-none-any.whl", SHA256)
    words = f"pinned wheels edgewright-none 1 for aarch64: ERROR: (.|\n)*lay them into '{tmp_path}/wheels': {wheel.file}"
    with pytest.raises(DeviceError, match=words):
        fetch.fetch_wheels([wheel], tmp_path / "wheels")
    assert list((tmp_path / "wheels").iterdir()) == []


def test_pip_checks_the_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = Path(tmp_path / "edgewright_none-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "edgewright_none-1.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: edgewright-none\nVersion: 1\n",
        )
        archive.writestr("edgewright_none-1.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    for sha256, accepted in ((SHA256, False), (right, True)):
        wheel = Wheel("edgewright-none", "1", path.name, sha256)
        if accepted:
            assert fetch.fetch_wheels([wheel], tmp_path / "w")[0].read_bytes() == path.read_bytes()
        else:
            with pytest.raises(DeviceError, match=r"hash|HASH"):
                fetch.fetch_wheels([wheel], tmp_path / "w")
