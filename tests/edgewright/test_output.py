import json
import subprocess
import sys

import pytest

# What a solver in C++ prints; C holds it back until the process ends where stdout is a pipe.
PRINTING = """
import ctypes
from edgewright.cli import output
with output.stdout_for_json({wanted}):
    ctypes.CDLL(None).puts(b"a solver speaks")
    output.emit_json({{"schema": "made up"}})
"""


@pytest.mark.parametrize("wanted", [True, False])
def test_a_json_document_has_stdout_to_itself(wanted: bool) -> None:
    code = PRINTING.format(wanted=wanted)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("a solver speaks" in done.stdout) is not wanted
    if wanted:
        assert json.loads(done.stdout) == {"schema": "made up"}
        assert "a solver speaks" in done.stderr
