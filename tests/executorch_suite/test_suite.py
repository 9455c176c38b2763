"""ExecuTorch's own operator cases with edgewright in front: a few of them, and how the sweep compares."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.executorch_suite.run import outcomes, page, regressions

pytestmark = pytest.mark.target


def line(test, outcome):
    return json.dumps({"test": test, "outcome": outcome, "said": "why"})


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "found.jsonl"
    path.write_text(
        "\n".join(
            [
                line("op/test_abs.py::test_abs[xnnpack-a]", "passed"),
                line("op/test_abs.py::test_abs[edgewright_xnnpack-a]", "passed"),
                line("op/test_add.py::test_add[xnnpack]", "passed"),
                line("op/test_add.py::test_add[edgewright_xnnpack]", "failed"),
                line("op/test_elu.py::test_elu[xnnpack]", "failed"),
                line("op/test_elu.py::test_elu[edgewright_xnnpack]", "passed"),
            ]
        )
    )
    return outcomes(path)


def test_what_passes_stock_and_not_with_us_is_a_regression(found):
    assert regressions(found) == ["op/test_add.py::test_add[xnnpack]"]


def test_the_page_counts_both_and_names_the_lost(found):
    text = page(found)
    assert "| xnnpack | 2 | 0 | 1 | 2 | 0 | 1 |" in text
    assert "not with us in front: 1." in text and "test_add" in text


def test_cases_of_the_suite_pass_with_us_in_front(tmp_path):
    command = [sys.executable, "-m", "tests.executorch_suite.run", "test_hardswish and not int8"]
    done = subprocess.run(
        [*command, "--jobs", "1", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Pass stock and not with us in front: 0." in done.stdout
    assert "| xnnpack | 0 |" not in done.stdout, "no case ran"
