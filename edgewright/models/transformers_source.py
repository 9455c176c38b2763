"""`hf:NAME`, `hf:FOLDER`, `hf:config.json`: a model of the transformers library, in eval mode.

A folder or a name of the hub brings its weights; a configuration alone is built with random ones. The
class is the one the configuration names under `architectures`, the base model of its type
otherwise. A cache of keys and values would be a state between calls: it is switched off. A mixture of
experts gathers the weights of each token's experts, so that its shapes do not depend on its routing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compiler.errors import UsageError
from edgewright.models.loaded import LoadedModel
from edgewright.models.torchvision_shim import import_torchvision
from targets.quiet import quiet

TOKENS = 16  # of an example sentence
ACCEPTED = "hf:NAME of the hub, hf:FOLDER with a config.json, or hf:FILE.json with a configuration"


def load_transformers(spec: str) -> LoadedModel:
    """Build the model behind `hf:...` with an example call.

    Raises UsageError for what is neither a file, a folder nor a model of the hub.
    """
    name = spec.removeprefix("hf:")
    build = _configured if name.endswith(".json") else _trained
    with quiet():  # the library warns of kernels that only a GPU has
        module = build(_library(), spec, name).eval()
        if module._can_set_experts_implementation():
            module.set_experts_implementation("batched_mm")
    module.config.use_cache = False
    generator = torch.Generator().manual_seed(0)
    drawn = _example(module, generator)
    shapes = ", ".join(f"{n} {'x'.join(map(str, t.shape))}" for n, t in drawn.items())
    return LoadedModel(module, (), drawn, spec, f"its example is {shapes}")


def _library() -> ModuleType:
    with contextlib.suppress(ImportError):  # only vision models of the library need it
        import_torchvision()
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(f"hf: models need transformers: pip install 'edgewright[hf]' ({error})") from error


def _configured(library: ModuleType, spec: str, name: str) -> Any:
    try:
        fields = json.loads(Path(name).read_text(encoding="utf-8"))
        config = library.AutoConfig.for_model(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{spec} is not a configuration of transformers: {_first(error)}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same weights each time, so that an interrupted search can go on
        return _class(library, config).from_config(config)


def _trained(library: ModuleType, spec: str, name: str) -> Any:
    try:
        config = library.AutoConfig.from_pretrained(name)
        return _class(library, config).from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{spec} cannot be loaded: {_first(error)}; accepted: {ACCEPTED}") from error


def _class(library: ModuleType, config: Any) -> Any:
    """Return what builds the model: the class that the configuration names, or that of its type."""
    name = next(iter(config.architectures or ()), None)
    found = getattr(library, name, None) if name else library.AutoModel
    if found is None:
        raise UsageError(f"the configuration asks for a {name}, which this transformers has not")
    return found if name is None else _Named(found)


class _Named:
    """A model class with the constructor names of the automatic classes."""

    def __init__(self, kind: Any) -> None:
        self.from_config = kind
        self.from_pretrained = kind.from_pretrained


def _example(module: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return an example of the module's main input, and a first token for a decoder beside an encoder."""
    config, name = module.config, module.main_input_name
    drawn = {name: _input(name, config, generator)}
    if getattr(config, "is_encoder_decoder", False) and hasattr(module, "get_decoder"):
        drawn["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.int64)
    return drawn


def _input(name: str, config: Any, generator: torch.Generator) -> torch.Tensor:
    if name == "pixel_values":
        size = _size(config.image_size)
        return torch.randn(1, getattr(config, "num_channels", 3), *size, generator=generator)
    if name == "input_features":
        frames = 2 * config.max_source_positions
        return torch.randn(1, config.num_mel_bins, frames, generator=generator)
    if name == "input_ids":
        return torch.randint(0, config.vocab_size, (1, TOKENS), generator=generator)
    raise UsageError(f"the model's input is {name!r}: give it by --input {name}=SHAPE")


def _size(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
