"""Each form written for XNNPACK: equal in float64, written where it belongs, and nothing left outside."""

import pytest
import torch
from torch import nn

from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.compress.quantize_dynamic import quantize_dynamic
from compiler.evaluate import evaluate
from compiler.target import INT8, INT8_DYNAMIC
from targets import get_target
from targets.executorch.legalise import legalise

EXACT = 1e-6  # 1 / C is rounded to float32


class Mlp(nn.Module):
    """A ConvNeXt block's tail on the last axis, between an image's layers."""

    def __init__(self, width=12):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.randn(width))

    def tail(self, x):
        return self.scale * self.down(nn.functional.gelu(self.up(self.norm(x))))

    def forward(self, x):
        return x + self.tail(self.spatial(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ReadTwice(Mlp):
    """Its last axis is read outside, too."""

    def forward(self, x):
        y = self.tail(self.spatial(x).permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2), y.mean((1, 2))


class Pooled(Mlp):
    """It never turns back."""

    def forward(self, x):
        return self.tail(self.spatial(x).permute(0, 2, 3, 1)).sum((1, 2))


class Gated(Mlp):
    """Two branches of the part meet, and a number is added."""

    def tail(self, x):
        y = self.norm(x)
        return (torch.sigmoid(self.down(self.up(y))) * y + 0.5) / 3.0


class Rotary(nn.Module):
    """Neighbours turned by an angle each."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("cosine", torch.randn(5, width))
        self.register_buffer("sine", torch.randn(5, width))

    def turned(self, x):
        return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)

    def forward(self, x):
        return x * self.cosine + self.turned(x) * self.sine


class Halves(Rotary):
    """Halves change places: slices of step one, which the delegate takes."""

    def turned(self, x):
        return torch.cat([-x[..., 4:], x[..., :4]], -1)


class AcrossRows(Rotary):
    """Rows change places, so that no matrix on the last axis does it."""

    def turned(self, x):
        odd = x[..., 1::2]
        return torch.stack([-torch.cat([odd[..., 1:, :], odd[..., :1, :]], -2), x[..., ::2]], -1).reshape(
            x.shape
        )


class SignByRow(Rotary):
    """The first row has another sign."""

    def turned(self, x):
        odd = x[..., 1::2]
        return torch.stack([torch.cat([-odd[..., :1, :], odd[..., 1:, :]], -2), x[..., ::2]], -1).reshape(
            x.shape
        )


def randomised(module):
    """Parameters that no form can hide behind."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    return module.eval()


def agrees(graph, *inputs):
    """Legalise, compare in float64, and return the operations."""
    legal = legalise(graph)
    for found, wanted in zip(
        evaluate(legal, inputs, torch.float64), evaluate(graph, inputs, torch.float64), strict=True
    ):
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) <= EXACT * float(wanted.abs().max())
    return [node.op.split(".")[1] for node in legal.ops()]


@pytest.mark.parametrize("module", [Mlp, Gated])
def test_a_part_between_two_transpositions_works_on_channels(module, imports):
    x = torch.randn(2, 12, 5, 7)
    ops = agrees(imports(randomised(module()), x), x)
    assert not {"permute", "layer_norm", "linear"} & set(ops)
    assert ops.count("conv2d") == 5  # the spatial one, two means, two layers


@pytest.mark.parametrize("module", [ReadTwice, Pooled])
def test_a_part_that_is_read_elsewhere_stays_on_the_last_axis(module, imports):
    x = torch.randn(2, 12, 5, 7)
    ops = agrees(imports(randomised(module()), x), x)
    assert "permute" in ops
    assert ops.count("conv2d") == 1


@pytest.mark.parametrize("shape", [(4, 12), (2, 5, 12), (2, 3, 5, 12)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_takes_its_means_by_products(shape, affine, imports):
    x = torch.randn(shape)
    ops = agrees(imports(randomised(nn.LayerNorm(12, elementwise_affine=affine)), x), x)
    assert "layer_norm" not in ops
    assert ops.count("linear") == 2


def test_layer_norm_over_two_axes_stays(imports):
    x = torch.randn(2, 5, 12)
    assert "layer_norm" in agrees(imports(randomised(nn.LayerNorm((5, 12))), x), x)


class Products(nn.Module):
    """Attention of heads, its products written out."""

    def forward(self, x):
        return (x @ x.transpose(-1, -2)).softmax(-1) @ x


class Broadcast(nn.Module):
    """A product of which one side's stacks are read again."""

    def forward(self, x):
        return x @ x[:1].transpose(-1, -2)


class LastAxes(nn.Module):
    """A linear layer over the last axis of an image, behind a convolution and before one."""

    def __init__(self, bias):
        super().__init__()
        self.before, self.after = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.linear = nn.Linear(7, 7, bias=bias)

    def forward(self, x):
        return self.after(torch.relu(self.linear(self.before(x))))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_of_rank_four_stays_whole_in_the_delegate(bias, lower, imports):
    x = torch.randn(2, 6, 5, 7)
    graph = imports(randomised(LastAxes(bias)), x)
    assert [n.op for n in legalise(graph).ops()] == [n.op for n in graph.ops()]
    lowered = lower(get_target("executorch"), graph)
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)
    assert lowered.error(x) < 1e-5


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (2, 1, 3, 7, 5)])
def test_a_product_of_stacks_is_one_of_the_delegate(shape, lower, imports):
    x = torch.randn(shape)
    graph = imports(Products(), x)
    assert agrees(graph, x).count("bmm") == 2
    lowered = lower(get_target("executorch"), graph)
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)
    assert lowered.error(x) < 1e-5


def test_a_product_that_broadcasts_its_stacks_stays(imports):
    x = torch.randn(2, 3, 7, 5)
    assert "matmul" in agrees(imports(Broadcast(), x), x)


def test_interleaved_pairs_turn_by_one_product(imports):
    x = torch.randn(2, 3, 5, 8)
    ops = agrees(imports(randomised(Rotary(8)), x), x)
    assert ops.count("linear") == 1
    assert not {"slice", "stack", "neg"} & set(ops)


@pytest.mark.parametrize("module", [Halves, AcrossRows, SignByRow])
def test_what_no_interleaving_does_stays(module, imports):
    x = torch.randn(2, 3, 5, 8)
    assert "linear" not in agrees(imports(randomised(module(8)), x), x)


class Both(Rotary):
    """Halves change places beside an interleaving of the same value."""

    def forward(self, x):
        halves = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return super().forward(x) + halves * self.sine


def test_halves_beside_an_interleaving_stay_slices(imports):
    x = torch.randn(2, 3, 5, 8)
    ops = agrees(imports(randomised(Both(8)), x), x)
    assert (ops.count("linear"), ops.count("slice"), ops.count("cat")) == (1, 2, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_only_float32_turns_by_a_product(dtype, imports):
    module = Rotary(8)
    module.cosine, module.sine = module.cosine.to(dtype), module.sine.to(dtype)
    legal = legalise(imports(module, torch.randn(1, 2, 5, 8).mul(9).to(dtype)))
    assert "aten.linear.default" not in legal.histogram()


def test_a_float16_layer_norm_stays(imports):
    x = torch.randn(2, 5, 12).mul(300).half()
    assert "aten.layer_norm.default" in legalise(imports(nn.LayerNorm(12).half(), x)).histogram()


def test_an_axis_wider_than_was_measured_stays(imports):
    x = torch.randn(1, 2, 5, 96)
    assert "linear" not in agrees(imports(randomised(Rotary(96)), x), x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Mlp(), (1, 12, 5, 7)),
        (nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 12)), (1, 5, 12)),
        (nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 12)), (1, 3, 5, 12)),
        (Rotary(8), (1, 3, 5, 8)),
    ],
)
def test_nothing_is_left_outside_the_delegate(module, shape, lower, imports):
    x = torch.randn(shape)
    lowered = lower(get_target("executorch"), imports(randomised(module), x))
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)
    assert lowered.error(x) < 1e-5


class TalkingHeads(nn.Module):
    """Attention whose heads a convolution mixes before and after the softmax (arXiv 2003.02436)."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        scores = x @ x.transpose(-1, -2)
        return self.after(self.before(scores).sigmoid().softmax(-1)) @ x, (scores + 1.0).softmax(-1)


def test_a_softmax_behind_a_convolution_runs_over_the_last_axis(lower, imports):
    x = torch.randn(1, 3, 7, 5)
    graph = imports(TalkingHeads(), x)
    assert lower(get_target("executorch"), graph).error(x) < 1e-5
    softmaxes = [n for n in legalise(graph).ops() if n.op == "aten.softmax.int"]
    assert [n.type.shape for n in softmaxes] == [(21, 7), (1, 3, 7, 7)]


class WindowAttention(nn.Module):
    """Attention of heads that are cut from a linear layer and joined again, as in Swin."""

    def __init__(self, mask, causal=False):
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(12, 36), nn.Linear(12, 12), causal
        self.register_buffer("mask", mask)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, n, 12))


def masks():
    torch.manual_seed(2)
    some = torch.rand(1, 1, 5, 5) > 0.4
    some[..., 0] = True
    return {
        "a bias of each head": torch.randn(1, 2, 5, 5),
        "a bias of each window": torch.randn(3, 1, 5, 5) - 100 * (torch.rand(3, 1, 5, 5) > 0.7),
        "what is allowed": some,
        "infinities": torch.zeros(5, 5).masked_fill(~some[0, 0], -torch.inf),
        "causal": None,
    }


@pytest.mark.parametrize("name", masks())
def test_masked_attention_stays_in_the_delegate(name, lower, imports):
    mask, x = masks()[name], torch.randn(3, 5, 12)
    graph = imports(randomised(WindowAttention(mask, mask is None)), x)
    assert "scaled_dot_product_attention" not in agrees(graph, x)
    lowered = lower(get_target("executorch"), graph)
    assert lowered.error(x) < 1e-5
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)


def test_a_mask_that_leaves_a_row_nothing_stays(imports):
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    x = torch.randn(3, 5, 12)
    graph = imports(WindowAttention(mask), x)
    assert "aten.scaled_dot_product_attention.default" in legalise(graph).histogram()


def test_a_gelu_by_tanh_is_not_one_by_erf(lower, imports):
    x = torch.linspace(-6, 6, 4096)[None]
    graph = imports(nn.Sequential(nn.Identity(), nn.GELU(approximate="tanh")), x)
    assert "gelu" not in agrees(graph, x)
    lowered = lower(get_target("executorch"), graph)
    assert lowered.error(x) < 1e-6
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)


@pytest.mark.parametrize("groups", [1, 4])
def test_group_norm_takes_its_means_by_products(groups, lower, imports):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(groups, 12), nn.Conv2d(12, 4, 1))
    x = torch.randn(2, 3, 64, 64) + 3
    graph = imports(randomised(net), x)
    assert "group_norm" not in agrees(graph, x)
    lowered = lower(get_target("executorch"), graph)
    assert lowered.error(x) < 1e-5
    assert (lowered.report["delegates"], lowered.report["outside_ops"]) == (1, 0)


@pytest.mark.parametrize("precision", [INT8, INT8_DYNAMIC])
def test_an_int8_linear_of_rank_four_stays_in_the_delegate(precision, lower, imports):
    target, x = get_target("executorch"), torch.randn(1, 3, 5, 12)
    graph = imports(randomised(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 7))), x)
    names = frozenset(n.name for n in graph.ops())
    quantizer = target.quantizer(ir_filter(names), precision)
    quantized = (
        quantize_int8(graph, names, quantizer, [(x,)])
        if precision == INT8
        else quantize_dynamic(graph, names, quantizer, target.rounds_rows)
    )
    report = lower(target, quantized).report
    assert (report["delegates"], report["outside_ops"]) == (1, 0)
