"""timm beside a torchvision whose C library does not load.

timm imports torchvision at its top. torchvision's wheels link the CUDA libraries of the torch
they were built with, so beside a CPU-only torch its `_C.so` does not load, and importing it then
dies with `operator torchvision::nms does not exist`: its Python part registers meta kernels for
two operators that the library would have defined. No timm model calls either one. Defining their
schemas first is enough for the import to pass. An ordinary torchvision is left alone.
"""

from __future__ import annotations

import importlib

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def import_torchvision() -> None:
    """Import torchvision, defining its two missing operators where its library cannot load.

    Raises ImportError where torchvision is not installed at all.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch's own
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]  # torch's own
        _kept.append(library)
        importlib.import_module("torchvision")
