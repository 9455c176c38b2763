"""The project's own shape: what is imported from where, what stays unloaded, what is pinned."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOTS = ("edgewright", "compiler", "targets", "devices", "profiles")
SDKS = ("executorch", "tvm", "onnxruntime", "onnx", "litert_torch", "ai_edge_litert", "timm", "torchvision")
MODULES = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))


@pytest.mark.parametrize("name", ROOTS)
def test_each_root_is_imported_from_this_checkout(name):
    assert Path(importlib.import_module(name).__file__).parent == ROOT / name


@pytest.mark.parametrize(
    "statement",
    [
        "import edgewright",
        "import edgewright.cli.app",
        "import targets, devices, profiles; targets.get_target('executorch')",
        "import edgewright.compilation",
    ],
)
def test_importing_loads_no_sdk(statement):
    code = f"import sys; {statement}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(loaded.stdout.split()) & set(SDKS)


def test_the_front_door_and_the_help_load_no_torch():
    code = "import sys, edgewright, edgewright.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring or not tree.body, f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_outgrows_its_concept(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_pins_that_resolve_together():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert project["requires-python"] == ">=3.11,<3.12"
    assert "torch>=2.13,<2.14" in project["dependencies"]
    assert extras["executorch"] == ["executorch==1.4.1"]
    assert "apache-tvm==0.26.0" in extras["tvm"]
    assert extras["litert"] == ["litert-torch==0.10.0", "ai-edge-litert==2.3.0"]
    assert {
        "executorch",
        "litert",
        "onnx",
        "tvm",
        "android",
        "ssh",
        "postgres",
        "zoo",
        "hf",
        "dev",
        "all",
    } == set(extras)


def test_every_ignored_rule_has_its_reason():
    ignoring = False
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        ignoring = line.startswith("ignore = [") or (ignoring and line != "]")
        if ignoring and line.startswith("    "):
            assert "#" in line, f"no reason beside {line.strip()}"
