"""The import that lets draws pass, and nothing else that the strict one refuses."""

import pytest
import torch
from torch import nn

from compiler.compress.random_rows import draws
from compiler.errors import UnsupportedModelError
from compiler.frontends.stochastic import import_stochastic
from compiler.frontends.torch_export import import_model


class Noisy(nn.Module):
    def forward(self, x):
        return x[torch.randperm(len(x))] + torch.randn(x.shape)


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x) + torch.randn(x.shape)


def test_draws_become_operations():
    x = torch.randn(4, 3)
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        import_model(Noisy().eval(), (x,))
    for model in (Noisy().eval(), torch.export.export(Noisy().eval(), (x,))):
        graph = import_stochastic(model, (x,), {})
        assert [n.op for n in graph.ops() if draws(n)] == ["aten.randperm.default", "aten.randn.default"]


@pytest.mark.parametrize(
    ("model", "words"), [(Branching().eval(), "test_stochastic"), (Training(), "training mode")]
)
def test_what_else_is_refused_stays_refused(model, words):
    with pytest.raises(UnsupportedModelError, match=words):
        import_stochastic(model, (torch.randn(4, 3),), {})
