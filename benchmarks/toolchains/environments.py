"""The tools, the environment of each, and how a command is run in one.

An environment is a folder below `ROOT` with `setup.json`: what was installed, or why it was not.
ExecuTorch needs none: it is installed beside edgewright.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path("out/toolchains")
SCRIPTS = Path(__file__).parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"}
ONNX = "onnx==1.23.2"
TORCH = "torch==2.13.0"
EXPORTER = "onnx"  # the environment that turns .pt2 into .onnx


@dataclass(frozen=True)
class Tool:
    """A tool chain: the pinned packages of its environment, whether it reads ONNX and can be timed."""

    name: str
    title: str
    requirements: tuple[str, ...]
    reads_onnx: bool = True
    has_runtime: bool = True


TOOLS = (
    Tool("executorch", "ExecuTorch XNNPACK", (), reads_onnx=False),
    Tool("onnxruntime", "ONNX Runtime", ("onnxruntime==1.32.0", ONNX)),
    Tool("onnxslim", "onnxslim", ("onnxslim==0.1.98", ONNX), has_runtime=False),
    Tool("openvino", "OpenVINO CPU", ("openvino==2026.4.1",)),
    Tool("tvm", "TVM Relax", ("apache-tvm==0.26.0", ONNX)),
    Tool("litert", "LiteRT", (TORCH, "litert-torch==0.10.0", "ai-edge-litert==2.3.0"), reads_onnx=False),
    Tool("mnn", "MNN", ("MNN==3.6.1",)),
    Tool("ncnn", "pnnx/ncnn", (TORCH, "pnnx==20261020", "ncnn==1.0.20261020")),
)
REQUIREMENTS = {t.name: t.requirements for t in TOOLS if t.requirements}
REQUIREMENTS[EXPORTER] = (TORCH, ONNX, "onnxscript==0.7.2")


class Failed(Exception):
    """A tool could not do a step; the message is one line that says why."""


def python_of(name: str) -> Path:
    """Return the interpreter that has the tool."""
    return (ROOT / name / "bin" / "python").absolute() if name in REQUIREMENTS else Path(sys.executable)


def environments(tools: Sequence[Tool]) -> list[str]:
    """Return the names of the environments that tools need, the exporter's first."""
    names = [EXPORTER] if any(t.reads_onnx for t in tools) else []
    return names + [t.name for t in tools if t.requirements]


def set_up(name: str, pip_args: Sequence[str]) -> None:
    """Make the environment `name`, and note what was installed or why it was not."""
    state: dict[str, Any] = {"requirements": list(REQUIREMENTS[name]), "error": None}
    print(f"setting up {name}: {' '.join(REQUIREMENTS[name])}", file=sys.stderr)
    try:
        run([sys.executable, "-m", "venv", str(ROOT / name)], f"setup.{name}")
        install = [str(python_of(name)), "-m", "pip", "install", "--quiet", *pip_args]
        run([*install, *REQUIREMENTS[name]], f"setup.{name}")
    except Failed as failure:
        state["error"] = str(failure)
        print(f"  not installed: {failure}", file=sys.stderr)
    (ROOT / name).mkdir(parents=True, exist_ok=True)
    (ROOT / name / "setup.json").write_text(json.dumps(state), encoding="utf-8")


def unavailable(tool: Tool) -> str | None:
    """Return None where the tool, and what makes its input, is there; else the reason."""
    if not tool.requirements and not find_spec(tool.name):
        return f"not installed: run `pip install 'edgewright[{tool.name}]'`"
    return next((reason for name in environments([tool]) if (reason := _missing(name))), None)


def _missing(name: str) -> str | None:
    note = ROOT / name / "setup.json"
    state = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if state.get("requirements") != list(REQUIREMENTS[name]):
        return f"not set up: run `python benchmarks/toolchains.py --setup {name}`"
    if state["error"]:
        return f"not installed: {state['error']} (tried `pip install {' '.join(state['requirements'])}`)"
    return None


def run(command: Sequence[str], log: str) -> str:
    """Run a command to its end and return its stdout; its stderr goes to a log file.

    Raises Failed with the line of stderr that says most, or the exit code.
    """
    path = ROOT / "logs" / f"{log}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = [f"{key}={value}" for key, value in ONE_THREAD.items()]
    with path.open("w", encoding="utf-8") as stderr:
        done = subprocess.run(
            ["env", *settings, *command], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
        )
    if done.returncode:
        said = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        # pip says what failed in a line that begins with ERROR, Python in the last line.
        telling = [line for line in said if line.startswith("ERROR")] or said
        raise Failed(telling[-1] if telling else f"exit code {done.returncode}")
    return done.stdout
