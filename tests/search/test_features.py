import pytest
import torch
from torch import nn

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.verify import verify
from compiler.search.features import feature_rows, with_features


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def features(self, x):
        return self.stem(x).relu().mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x)).softmax(-1)


def features_of(module: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    graph = with_features(import_model(module.eval(), (x,)))
    verify(graph)
    *outputs, features = evaluate(graph, [x])
    return outputs, feature_rows(features, len(x))


def test_features_are_what_the_last_weighted_layer_reads() -> None:
    net, x = Net(), torch.randn(2, 3, 6, 6)
    (output,), features = features_of(net, x)
    assert output == pytest.approx(net(x).detach())
    assert features == pytest.approx(net.features(x).detach())


def test_pixels_and_tokens_are_averaged() -> None:
    x = torch.randn(2, 3, 6, 6)
    convolutional = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten())
    assert features_of(convolutional, x)[1] == pytest.approx(convolutional[:2](x).mean((2, 3)).detach())
    tokens = nn.Sequential(nn.Embedding(9, 5), nn.Tanh(), nn.Linear(5, 9))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert features_of(tokens, ids)[1] == pytest.approx(tokens[:2](ids).mean(1).detach())
    assert feature_rows(torch.arange(12.0).reshape(6, 2), 2).tolist() == [[2, 3], [8, 9]]


def test_without_a_weighted_layer_the_output_is_the_feature() -> None:
    class Plain(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * x.amax((2, 3))

    x = torch.randn(2, 3, 4, 4)
    assert features_of(Plain(), x)[1] == pytest.approx(Plain()(x))


def test_a_model_without_floating_outputs_has_no_features() -> None:
    class Ids(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with pytest.raises(UsageError, match="no features"):
        with_features(import_model(Ids().eval(), (torch.randn(2, 3),)))
