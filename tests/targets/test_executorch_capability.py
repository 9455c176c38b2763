"""The capability data agrees with what the partitioner does, and with the operations it lists."""

import pytest
import torch
from torch.nn import functional as f

from compiler.frontends.torch_export import import_model
from targets import get_target
from targets.executorch.capability import KNOWN_GAPS, SUPPORTED
from targets.quiet import quiet
from tests.targets.conftest import PROFILE
from tests.targets.functions import Function, X, imported

TARGET = get_target("executorch")


TAKEN = {
    "convolutions": lambda m, x: m.up(m.conv(x)),
    "linear": lambda m, x: m.linear(x),
    "products": lambda m, x: torch.bmm(x[0], x[1]),
    "elementwise": lambda m, x: (x + x.abs()) * x.exp() - torch.maximum(x, -x) / x.square(),
    "numbers": lambda m, x: (1 - x * 2) / 3 + 1 / (x - 4) + 5 * (2.5 - x),
    "powers": lambda m, x: x.pow(2).sqrt().rsqrt() + x.ceil() * x.floor() + x.sin() * x.cos(),
    "clamps": lambda m, x: f.relu(x) + f.relu6(x) + x.clamp(-1, 2) + f.hardswish(x) + f.hardsigmoid(x),
    "activations": lambda m, x: f.silu(x) + f.gelu(x) + x.tanh() + x.sigmoid() + f.leaky_relu(x) + m.slope(x),
    "softmax": lambda m, x: x.softmax(-1),
    "pools": lambda m, x: f.avg_pool2d(x, 2) + f.max_pool2d(x, 2),
    "means": lambda m, x: x.mean((2, 3)) + f.adaptive_avg_pool2d(x, 1).flatten(1),
    "shapes": lambda m, x: torch.cat([x.permute(0, 1, 3, 2), f.pad(x, (1, 1))[..., 1:9]], 1).reshape(
        2, 96, 8
    ),
    "pieces": lambda m, x: [p + 1 for p in x.unbind(0)] + [x.select(1, 2).unsqueeze(0).squeeze(0) + 1],
    "norm": lambda m, x: m.norm(x),
    "layer norm": lambda m, x: f.layer_norm(x, (8,)),
    "attention": lambda m, x: f.scaled_dot_product_attention(x, x, x),
}
LEFT = {
    "a norm over a plane": lambda m, x: f.layer_norm(x, x.shape[2:]),
    "softmax over channels": lambda m, x: x.softmax(1),
    "a cube": lambda m, x: x.pow(3),
    "a step": lambda m, x: x[..., ::2] + 1,
    "a padded average": lambda m, x: f.avg_pool2d(x, 3, padding=1),
    "a mean over channels": lambda m, x: x.mean(1),
    "elu": lambda m, x: f.elu(x),
    "float64": lambda m, x: x.double() * 2,
}


def outside(function, tmp_path):
    """Return (IR nodes the runtime runs outside the delegate, IR nodes predicted to be)."""
    graph = imported(function)
    report = TARGET.lower({"forward": graph}, PROFILE, tmp_path).report
    real = {name for row in report["outside"] for name in row["nodes"]}
    return real, {n.name for n in graph.ops() if TARGET.supports(n) is not None}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_said_to_be_taken_is_taken(case, tmp_path):
    real, predicted = outside(TAKEN[case], tmp_path)
    assert real == predicted == set()


@pytest.mark.parametrize("case", LEFT)
def test_what_is_said_to_be_left_is_left(case, tmp_path):
    real, predicted = outside(LEFT[case], tmp_path)
    assert real == predicted != set()


def test_each_reason_is_a_sentence_on_the_node():
    graph = import_model(Function(LEFT["softmax over channels"]).eval(), (torch.rand(X),))
    assert [TARGET.supports(n) for n in graph.ops()] == ["softmax only over the last dimension"]


def test_no_operation_the_partitioner_lists_is_forgotten():
    """An SDK update that lists a new operation must be noticed here."""
    with quiet():
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    listed = {config.target_name.split(".")[0] for config in ALL_PARTITIONER_CONFIGS}
    ours = {op.split(".")[1] for op in (*SUPPORTED, *KNOWN_GAPS)}
    edge_names = {
        "convolution", "mm", "view_copy", "permute_copy", "slice_copy", "unsqueeze_copy", "clone",
        "_clone_dim_order", "_to_dim_order_copy", "_native_batch_norm_legit_no_training", "max",
        "quantize_affine", "dequantize_affine", "choose_qparams_affine",
    }  # fmt: skip  # what the IR calls otherwise (or, `max` and dynamic quantization, never makes)
    assert listed - ours - edge_names == set()
