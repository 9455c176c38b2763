"""Where models come from: a module in hand, or a text that names one.

| text | what it is |
|---|---|
| `timm:NAME` | a timm model with random weights |
| `package.module:attr`, `file.py:attr` | a module, or a callable returning it, or `(it, example inputs)` |
| `x.pt2` | a saved `torch.export` program |
"""

from edgewright.models.inputs import InputSpec, parse_input
from edgewright.models.load import load_model
from edgewright.models.loaded import LoadedModel

__all__ = ["InputSpec", "LoadedModel", "load_model", "parse_input"]
