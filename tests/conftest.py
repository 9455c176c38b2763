"""Markers by folder, and the gap markers as strict xfails."""

import signal
from pathlib import Path

import pytest

from tests import quicker

TESTS = Path(__file__).parent
NEEDS_SDK = {"arm", "targets", "end_to_end"}
THOROUGH = {"methods", "opinfo"}
GAPS = ("notimpl", "notyet", "never")


quicker.install()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script, we and every process we start would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def leases(tmp_path_factory):
    """Leases of this process's own: tests that run side by side do not wait for each other's devices."""
    folder = tmp_path_factory.mktemp("leases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("devices.lease.default_folder", lambda: folder)
        yield


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; read the diff")


def pytest_collection_modifyitems(items):
    for item in items:
        _mark_folder(item)
        for gap in GAPS:
            for marker in item.iter_markers(gap):
                item.add_marker(_xfail(gap, *marker.args, **marker.kwargs))


def _mark_folder(item):
    """What needs no SDK and no phone, and is neither slow nor thorough, is core."""
    marked = {m.name for m in item.iter_markers()}
    folder = item.path.relative_to(TESTS).parts[0]
    if folder in NEEDS_SDK and not marked & {"core", "device"}:
        item.add_marker(pytest.mark.target)
        marked.add("target")
    if folder in THOROUGH:
        item.add_marker(pytest.mark.thorough)
        return
    if not marked & {"target", "device", "slow", "thorough", "core"}:
        item.add_marker(pytest.mark.core)


def _xfail(gap, reason, raises=None):
    return pytest.mark.xfail(reason=f"{gap}: {reason}", raises=raises, strict=True)
