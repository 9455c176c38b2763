"""pnnx and ncnn: layers of the `.param` file that pnnx writes for ncnn, weights in float32."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import ncnn  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np
from program import Floats, Program

SOURCE = "onnx"
PACKAGES = ("pnnx", "ncnn")
COUNTED = frozenset(
    {
        "Convolution",
        "ConvolutionDepthWise",
        "Convolution1D",
        "Deconvolution",
        "InnerProduct",
        "Gemm",
        "MatMul",
    }
)
MOVES = frozenset({"Input", "Split", "Reshape", "Permute", "Squeeze", "ExpandDims"})
PNNX = str(Path(sys.executable).parent / "pnnx")
HEADER = 2  # magic number, then counts of layers and blobs


def build(source: Path, folder: Path) -> Counter[str]:
    """Convert; return how often each layer type stands in the `.param` file."""
    (folder / "model.onnx").write_bytes(source.read_bytes())
    # fp16=1, the default, would round the weights to half precision.
    command = [PNNX, "model.onnx", "fp16=0"]
    subprocess.run(command, check=True, cwd=folder, stdout=sys.stderr)
    lines = (folder / "model.ncnn.param").read_text(encoding="utf-8").splitlines()
    return Counter(line.split()[0] for line in lines[HEADER:] if line.strip())


def load(folder: Path, x: Floats, threads: int) -> Program:
    """Open the network in float32; one step is one extractor, which is how ncnn is used."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))
    batch = _batch_axes(folder)
    given = ncnn.Mat(x, batch_index=batch[0]).clone()  # a Mat made from an array only borrows it
    first, last = net.input_names()[0], net.output_names()[0]
    results: list[Any] = []

    def step() -> None:
        extractor = net.create_extractor()
        extractor.input(first, given)
        results[:] = [extractor.extract(last)[1]]

    def output() -> Floats:
        return np.array(results[0].numpy(batch_index=batch[1]), dtype=np.float32)

    return Program(step, output, net.opt.num_threads)


def _batch_axes(folder: Path) -> tuple[int, int]:
    """Return where pnnx put the batch axis of input and output, from the script it writes."""
    script = (folder / "model_ncnn.py").read_text(encoding="utf-8")
    first, last = re.findall(r"batch_index=(\d+)", script)
    return int(first), int(last)
