"""`torchvision:NAME`: a model of torchvision, built with random weights and put in eval mode."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

import torch

from compiler.errors import UsageError
from edgewright.models.inputs import InputSpec, draw_call
from edgewright.models.loaded import LoadedModel
from edgewright.models.torchvision_shim import import_torchvision


def load_torchvision(spec: str) -> LoadedModel:
    """Build `torchvision:NAME`, without downloading weights; raises UsageError for an unknown name."""
    models = _models()
    name = spec.removeprefix("torchvision:")
    known = models.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise UsageError(f"torchvision has no model called {name!r}; {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same weights each time, so that an interrupted search can go on
        module: torch.nn.Module = models.get_model(name, weights=None).eval()
    shape = _shape(models, name)
    args, kwargs = draw_call([InputSpec(shape)])
    return LoadedModel(module, args, kwargs, spec, f"its own input size is {'x'.join(map(str, shape))}")


def _shape(models: ModuleType, name: str) -> tuple[int, ...]:
    """Return an input shape: the size that the weights of the zoo were measured at, 224 where none are."""
    weights = models.get_model_weights(name)
    best = next(iter(weights), None)
    size = getattr(best.transforms(), "crop_size", [224])[0] if best is not None else 224
    return (1, 3, size, size)


def _models() -> ModuleType:
    try:
        import_torchvision()
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise UsageError(f"torchvision: models need it: pip install torchvision ({error})") from error
