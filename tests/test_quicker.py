"""What `tests.quicker` keeps of torch is read anew where it has changed."""

import pytest
import torch

from tests import quicker


@pytest.mark.target
def test_an_operator_that_comes_later_is_translated():
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    quicker.install()
    before = ONNXRegistry.from_torchlib()
    assert ONNXRegistry.from_torchlib() is before
    with torch.library._scoped_library("edgewright_later", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        after = ONNXRegistry.from_torchlib()
    assert after is not before and len(after.functions) == len(before.functions)
