"""Every `.pt2` of the patterns as ONNX beside it, through torch's own exporter, stock and ours alike.

python to_onnx.py FOLDER      (in the environment `onnx`: torch, onnx, onnxscript)
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch


def main() -> None:
    """Convert what is not converted yet."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for program in sorted(parser.parse_args().folder.glob("*/*.pt2")):
        target = program.with_suffix(".onnx")
        if target.exists():
            continue
        print(f"converting {program.parent.name}/{program.name} to ONNX", file=sys.stderr)
        exported = torch.export.load(program)
        converted = torch.onnx.export(exported, (), dynamo=True, external_data=False, verbose=False)
        assert converted is not None
        partial = target.with_suffix(".partial")
        converted.save(partial)
        partial.replace(target)


if __name__ == "__main__":
    main()
