"""Targets are found by folder, and finding them costs no SDK."""

import subprocess
import sys

import pytest

from compiler.errors import UsageError
from targets import get_target, list_targets

pytestmark = pytest.mark.core


def test_each_folder_is_a_target_of_its_name():
    assert "executorch" in list_targets()
    assert [get_target(name).name for name in list_targets()] == list(list_targets())


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'tensorrt'.*executorch"):
        get_target("tensorrt")


def test_finding_targets_imports_no_sdk():
    code = (
        "import sys; from targets import get_target, list_targets\n"
        "[get_target(n).supports for n in list_targets()]\n"
        "print([m for m in ('executorch', 'torchao', 'tvm', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
