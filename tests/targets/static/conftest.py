"""Static executables, each built once: linking takes seconds."""

import pytest

from compiler.target import FORWARD
from tests.targets.conftest import Lowered
from tests.targets.static.programs import MODELS, TARGET, TwoWays, stating

BUILT = {}  # a program of each name


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("static")


@pytest.fixture
def build(imports, folders):
    """A module and inputs to the program for this machine's processor, as `Lowered`."""

    def run(name, module, inputs, profile=None, **options):
        if name not in BUILT:
            graph, folder = imports(module, *inputs, **options), folders / name
            report = TARGET.lower({FORWARD: graph}, profile or stating(), folder).report
            BUILT[name] = Lowered(TARGET, graph, folder, dict(report))
        return BUILT[name]

    return run


@pytest.fixture
def mlp(build):
    return build("mlp", TwoWays(), MODELS["mlp"][1]())
