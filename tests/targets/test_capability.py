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
ONE_BY_ONE = {"tvm"}  # its importer reads each case, by way of torch.export or of ONNX, and not all at once


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_said_to_be_refused_lowers(name, tmp_path):
    target, taken = get_target(name), [case for case in CASES if case not in REFUSED[name]]
    assert not [n for case in taken for n in imported(CASES[case]).ops() if target.refuses(n)]
    for i, cases in enumerate([[case] for case in taken] if name in ONE_BY_ONE else [taken]):
        graph = imported(lambda m, x, cases=cases: [CASES[case](m, x) for case in cases])
        (tmp_path / str(i)).mkdir()
        target.lower({"forward": graph}, PROFILE, tmp_path / str(i))


@pytest.mark.parametrize(("name", "case"), [(n, c) for n, cases in REFUSED.items() for c in sorted(cases)])
def test_what_is_said_to_be_refused_does_not_lower(name, case, tmp_path):
    target, graph = get_target(name), imported(CASES[case])
    refused = [n for n in graph.ops() if target.refuses(n)]
    with pytest.raises(UnsupportedModelError) as caught:
        target.lower({"forward": graph}, PROFILE, tmp_path)
    assert any(f"'{n.name}'" in str(caught.value) for n in refused), (
        "a refusal names the node that is said to be a gap"
    )
    assert not list(tmp_path.iterdir()), "nothing half-written stays behind"
