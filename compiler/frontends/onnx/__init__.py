"""ONNX -> a torch module that torch.export can trace (`module`), read from a file by `reading`.

No numerics are ours: every operator is written in torch's, what is known ahead of time is computed by
ONNX's own reference, and the rest of the way is `torch_export`.
"""

from compiler.frontends.onnx.module import OnnxModule, onnx_module
from compiler.frontends.onnx.values import NeedsConstant

__all__ = ["NeedsConstant", "OnnxModule", "onnx_module"]
