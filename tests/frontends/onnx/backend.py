"""The node cases of `onnx.backend.test`: how one is run through our reader, and which are refused.

Every case of the installed onnx is here. A case whose data settles a size or an axis (the shape input of
Reshape, say) is run as a user would: those inputs are frozen to constants.
"""

from __future__ import annotations

import fnmatch
import warnings
from typing import Any

import numpy as np
import torch

from compiler.frontends.onnx import NeedsConstant, onnx_module
from compiler.frontends.onnx.dtypes import array_of, tensor_of

# What is refused, by the class of the reason, and the words that the refusal must hold.
REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "strings": (
        "strings are no tensors",
        (
            "*label_encoder*",
            "*regex*",
            "*string_concat*",
            "*string_split*",
            "*strnorm*",
            "test_equal_string*",
        ),
    ),
    "a result whose size depends on data": (
        "depends on data",
        ("test_nonmaxsuppression*", "test_unique*", "test_nonzero*"),
    ),
    "random numbers": ("no counterpart|draws random", ("test_bernoulli*", "test_training_dropout*")),
    "training": (
        "no counterpart|training mode",
        ("test_momentum*", "test_nesterov*", "test_adagrad*", "test_adam*", "test_batchnorm*training_mode"),
    ),
    "decoding of images and text, trees": (
        "no counterpart",
        ("test_image_decoder*", "test_tfidf*", "*tree_ensemble*"),
    ),
    "floating types of 4 and 8 bits that torch rounds otherwise": (
        "float8|float4|FLOAT4",
        (
            "*FLOAT4E2M1*",
            "*float4e2m1*",
            "*no_saturate*",
            "test_cast_e8m0_FLOAT*_to_FLOAT8E8M0",
            "test_quantizelinear_e?m?*",
        ),
    ),
}
# Bodies that the schema writes: one multiplies float64 by float32, one counts a loop in bfloat16.
BROKEN = {"test_flexattention_double", "test_range_bfloat16_type_positive_delta_expanded"}


def cases() -> dict[str, Any]:
    """Return all node cases by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        return {case.name: case for case in load_model_tests(kind="node")}


def refused(name: str) -> str | None:
    """Return the words of the refusal that a case must meet, None where it must run."""
    if name.startswith("test_training_dropout_zero_ratio"):
        return None
    if "FLOAT8E8M0_to" in name or name.startswith("test_cast_no_saturate_FLOAT8"):
        return None
    return next(
        (words for words, names in REFUSED.values() if any(fnmatch.fnmatch(name, n) for n in names)), None
    )


def run(case: Any, evaluate: Any) -> None:
    """Run a case and compare; `evaluate(module, arguments)` returns flat results."""
    for given, wanted in case.data_sets:
        names = [i.name for i in case.model.graph.input]
        inputs = {n: as_torch(v) for n, v in zip(names, given, strict=True)}
        results = _results(case, inputs, evaluate)
        flat = [w for out in wanted for w in (out if isinstance(out, list) else [out])]
        assert len(results) == len(flat)
        for result, want in zip(results, flat, strict=True):
            _same(case, result, want)


def _results(case: Any, inputs: dict[str, Any], evaluate: Any) -> list[Any]:
    frozen: dict[str, torch.Tensor] = {}
    while True:
        module = onnx_module(case.model).eval()
        module.assume(frozen)
        try:
            return evaluate(module, [inputs[n] for n in module.input_names])
        except NeedsConstant as error:
            new = {n: inputs[n] for n in error.inputs if n not in frozen}
            if not new:
                raise
            frozen |= new


def as_torch(value: Any) -> Any:
    """Return a case's value as a tensor, or a list of them."""
    import onnx

    if isinstance(value, list):
        return [as_torch(v) for v in value]
    if value is None:
        return None
    return tensor_of(
        np.asarray(onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    )


def _same(case: Any, result: Any, want: Any) -> None:
    wanted = as_torch(want)
    if result is None or wanted is None:
        assert result is None and (wanted is None or not wanted.numel())
        return
    assert result.shape == wanted.shape and result.dtype == wanted.dtype
    # Twice the rounding of the type, beside what the case allows.
    rounding = {torch.bfloat16: 2**-7, torch.float16: 2**-10}.get(result.dtype, 1e-6)
    a, b = array_of(result), array_of(wanted)
    finite = np.abs(b[np.isfinite(b)]) if b.dtype.kind == "f" else np.zeros(0)
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(
        a, b, rtol=case.rtol, atol=max(case.atol, 2 * rounding * scale), equal_nan=True
    )
