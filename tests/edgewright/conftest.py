"""Model files as a user would write them, and the command line in process."""

import json
import textwrap
from dataclasses import dataclass

import pytest

from edgewright.cli import main

MODELS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


EXAMPLE = (torch.randn(1, 3, 8, 8),)
torch.manual_seed(0)
NET = Net().eval()
TRAINING = Net()
NUMBER = 7


def net():
    return NET, EXAMPLE


def half_training():
    model = Net().eval()
    model.norm.train()
    return model, EXAMPLE


def branching():
    return Branching().eval(), EXAMPLE


def needs_argument(depth):
    return NET


def fails():
    raise KeyError("no weights here")


def several():
    return NET, EXAMPLE, "more"
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self):
        return json.loads(self.stdout)


@pytest.fixture
def models(tmp_path):
    """A file of the user's models, in a folder that is not the working directory."""
    path = tmp_path / "user_models.py"
    path.write_text(textwrap.dedent(MODELS), encoding="utf-8")
    return path


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run one command in this process; torch's own module path and the terminal stay as they are."""
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
