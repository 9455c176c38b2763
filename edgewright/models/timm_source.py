"""`timm:NAME`: a model of the timm zoo, built with random weights and put in eval mode."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

import torch

from compiler.errors import UsageError
from edgewright.models.inputs import InputSpec, draw_call
from edgewright.models.loaded import LoadedModel
from edgewright.models.torchvision_shim import import_torchvision


def load_timm(spec: str) -> LoadedModel:
    """Build `timm:NAME`, without downloading weights; raises UsageError for an unknown name."""
    timm = _timm()
    name = spec.removeprefix("timm:")
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models() for the names"
        raise UsageError(f"timm has no model called {name!r}; {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same weights each time, so that an interrupted search can go on
        module: torch.nn.Module = timm.create_model(name, pretrained=False).eval()
    size = tuple(int(d) for d in module.pretrained_cfg["input_size"])  # type: ignore[index]  # timm's own
    args, kwargs = draw_call([InputSpec((1, *size))])
    expected = f"timm's own input size is {'x'.join(map(str, (1, *size)))}"
    return LoadedModel(module, args, kwargs, spec, expected)


def _timm() -> ModuleType:
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(f"timm models need timm: pip install 'edgewright[zoo]' ({error})") from error
