"""An int8 LSTM, whose every step reads the same weights, as one file that others quantised."""

import pytest
import torch
from torch import nn

from compiler.frontends.torch_export import import_program
from compiler.merge import merge
from compiler.passes import PIPELINE
from targets import get_target


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        from torch.nn.quantizable.modules.rnn import LSTM

        self.lstm = LSTM(4, 3, 1)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.filterwarnings("ignore")
def test_an_int8_lstm_is_partitioned_without_cycles(lower):
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    torch.manual_seed(0)
    target, x = get_target("executorch"), (torch.randn(3, 2, 4),)
    exported = torch.export.export(Recurrent().eval(), x).module()
    prepared = prepare_pt2e(exported, target.quantizer(lambda node: True))
    prepared(*x)
    program = torch.export.export(convert_pt2e(prepared), x)
    graph = import_program(program)
    for _, step in PIPELINE:
        graph = step(graph)
    lowered = lower(target, merge(graph)[0])
    assert lowered.report["delegates"] > 0
