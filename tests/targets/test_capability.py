"""What a target says it refuses is what it does not lower, and nothing else."""

import pytest

from compiler.errors import UnsupportedModelError
from targets import get_target
from tests.targets.conftest import PROFILE
from tests.targets.functions import CASES, imported

NOWHERE = {"a histogram without a range", "an inverse", "singular values"}
REFUSED = {
    "executorch": NOWHERE | {"pools", "a histogram", "no translation", "a running product"},
    "onnxruntime": NOWHERE | {"no translation", "a distance", "a running product"},
    "litert": NOWHERE | {"pools", "a histogram", "no translation", "a running product"},
    "tvm": NOWHERE | {"a distance"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_to_be_refused_does_not_lower_and_the_rest_does(name, case, tmp_path):
    target, graph = get_target(name), imported(CASES[case])
    refused = [n for n in graph.ops() if target.refuses(n)]
    error = ""
    try:
        target.lower({"forward": graph}, PROFILE, tmp_path)
    except UnsupportedModelError as caught:
        error = str(caught)
    assert (not refused) == (not error) == (case not in REFUSED[name])
    if error:
        assert any(f"'{n.name}'" in error for n in refused), (
            "a refusal names the node that is said to be a gap"
        )
        assert not list(tmp_path.iterdir()), "nothing half-written stays behind"
