"""A map is the sum of its parts: random geometry against a brute evaluation in float64."""

from __future__ import annotations

import dataclasses
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from compiler.ir.graph import Sym
from compiler.merge.blocks import grouped
from compiler.merge.split import grid_of, products, sums
from compiler.merge.tap_map import add, compose, plain

pytestmark = pytest.mark.core
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
CHANNELS = [(6, 1, 1), (3, 2, 1), (2, 2, 3), (1, 4, 3)]  # groups, outputs and inputs of each


@st.composite
def axes(draw: st.DrawFn, largest: int = 13) -> tuple[int, ...]:
    """Kernel (even too), dilation, stride, padding of each side (or cropping) and size of one axis."""
    kernel, dilation = draw(st.integers(1, largest)), draw(st.integers(1, 2))
    extent = dilation * (kernel - 1) + 1
    left, right = draw(st.integers(-1, extent)), draw(st.integers(-1, extent))
    return kernel, dilation, draw(st.integers(1, 3)), left, right, draw(st.integers(extent + 2, extent + 9))


def tap_map(geometry, channels, seed, weight=None):
    """A dense kernel of any geometry with random weights, or the given ones [T, G, Co/G, Ci/G]."""
    offsets = [[d * i - left for i in range(k)] for k, d, _, left, _, _ in geometry]
    grid = tuple(
        map(tuple, torch.cartesian_prod(*map(torch.tensor, offsets)).reshape(-1, len(offsets)).tolist())
    )
    stride = tuple(s for _, _, s, _, _, _ in geometry)
    slack = tuple(left + right - d * (k - 1) - 1 for k, d, _, left, right, _ in geometry)
    sizes = tuple(size for *_, size in geometry)
    out = tuple((n + q) // s + 1 for n, q, s in zip(sizes, slack, stride, strict=True))
    if weight is None:
        generator = torch.Generator().manual_seed(seed)
        weight = 3 * torch.randn(len(grid), *channels, generator=generator, dtype=torch.float64)
    return plain(grid, grouped(weight), stride, slack, sizes, out)


def evaluated(taps, x):
    """y[p] = sum_o A_o x[s p + o], written out; outside the image x is what the edge says."""
    total = torch.zeros(x.shape[0], taps.channels_out, *taps.out_size, dtype=x.dtype)
    for offset, matrix in zip(taps.offsets, taps.weight, strict=True):
        read = x
        for axis, o in enumerate(offset):
            n, edge = taps.in_size[axis], taps.edge[axis]
            at = taps.stride[axis] * torch.arange(taps.out_size[axis]) + o
            source = {
                "zeros": at,
                "replicate": at,
                "reflect": n - 1 - (n - 1 - at.abs()).abs(),
                "circular": at % n,
            }[edge]
            inside = ((at >= 0) & (at < n)) | (edge != "zeros")
            read = read.index_select(2 + axis, source.clamp(0, n - 1)).movedim(2 + axis, -1) * inside
            read = read.movedim(-1, 2 + axis)
        read = read.unflatten(1, (taps.blocks.groups, -1))
        total += torch.einsum("goi,ngi...->ngo...", matrix, read).flatten(1, 2)
    return total


def inputs(taps):
    return torch.randn(
        2, taps.channels_in, *taps.in_size, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )


def distance(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))


@given(
    st.lists(axes(), min_size=1, max_size=2),
    st.sampled_from(CHANNELS),
    st.integers(0, 2**31),
    st.sampled_from([4, 9, 25]),
)
@SETTINGS
def test_the_parts_of_every_candidate_add_up_to_the_map(geometry, channels, seed, limit):
    whole = tap_map(geometry, channels, seed)
    x, candidates = inputs(whole), list(sums(whole, limit))
    wanted = evaluated(whole, x)
    assert bool(candidates) == (grid_of(whole).size > limit)
    for _, parts in candidates:
        joined = reduce(add, parts)
        assert joined.offsets == whole.offsets and torch.equal(joined.weight, whole.weight)
        assert len(parts) > 1 and sum(len(p.offsets) for p in parts) == len(whole.offsets)
        assert all(grid_of(p).size <= limit for p in parts)
        assert {(p.stride, p.slack, p.in_size, p.out_size) for p in parts} == {
            (whole.stride, whole.slack, whole.in_size, whole.out_size)
        }
        assert distance(sum(evaluated(p, x) for p in parts), wanted) < 1e-12
    assert len({name for name, _ in candidates}) == len(candidates)


@given(st.lists(axes(6), min_size=3, max_size=3), st.integers(0, 2**31))
@SETTINGS
def test_three_axes_split_too(geometry, seed):
    whole = tap_map(geometry, (2, 1, 1), seed)
    for _, parts in sums(whole):
        joined = reduce(add, parts)
        assert joined.offsets == whole.offsets and torch.equal(joined.weight, whole.weight)


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=2, max_size=30, unique=True))
@SETTINGS
def test_taps_with_holes_keep_each_part_s_kernel_within_the_limit(offsets):
    weight = torch.randn(len(offsets), 2, 1, 1, dtype=torch.float64)
    whole = plain(tuple(sorted(offsets)), grouped(weight), (1, 1), (-1, -1), (9, 8), (9, 8))
    for _, parts in sums(whole):
        joined = reduce(add, parts)
        assert joined.offsets == whole.offsets and torch.equal(joined.weight, whole.weight)
        assert all(grid_of(p).size <= 25 for p in parts)


def centred(kernel, channels=(4, 1, 1), stride=1, size=20):
    return tap_map([(k, 1, stride, k // 2, k // 2, size) for k in kernel], channels, 0)


def test_the_brute_evaluation_is_torch_s_convolution():
    whole = centred((7, 5), (3, 2, 2), stride=2, size=11)
    weight = whole.weight.flatten(1, 2).permute(1, 2, 0).reshape(6, 2, 7, 5)
    x = inputs(whole)
    assert distance(evaluated(whole, x), F.conv2d(x, weight, stride=2, padding=(3, 2), groups=3)) < 1e-14


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_the_brute_evaluation_pads_as_torch_does(mode):
    whole = dataclasses.replace(centred((5, 5), (4, 1, 1), size=9), edge=(mode, mode))
    weight = whole.weight.flatten(1).T.reshape(4, 1, 5, 5)
    x = inputs(whole)
    assert distance(evaluated(whole, x), F.conv2d(F.pad(x, (2,) * 4, mode), weight, groups=4)) < 1e-14


EDGES = st.sampled_from(["zeros", "reflect", "replicate", "circular"])


@given(st.tuples(axes(9), axes(9)), st.tuples(EDGES, EDGES), st.integers(0, 2**31))
@SETTINGS
def test_an_image_padded_by_its_own_values_splits_too(geometry, edges, seed):
    whole = dataclasses.replace(low_rank(geometry, (5, 1), 1, seed), edge=edges)
    x = inputs(whole)
    wanted = evaluated(whole, x)
    for _, parts in sums(whole, 9):
        assert distance(sum(evaluated(p, x) for p in parts), wanted) < 1e-12
    for _, pairs in products(whole):
        assert distance(sum(evaluated(b, evaluated(a, x)) for a, b in pairs), wanted) < 1e-12


def test_a_transposed_convolution_has_no_products():
    whole = low_rank([(7, 1, 1, 3, 3, 12)] * 2, (4, 1), 1, 0)
    assert list(products(whole)) and not list(products(dataclasses.replace(whole, up=(1, 2))))


def test_seven_by_seven_splits_as_measured():
    found = dict(sums(centred((7, 7))))
    assert {name: [len(p.offsets) for p in parts] for name, parts in found.items()} == {
        "parity 2x2": [16, 12, 12, 9],
        "parity 1x3": [21, 14, 14],
        "parity 3x1": [21, 14, 14],
        "windows 3x7": [21, 21, 7],
    }
    halves = [grid_of(p) for p in found["parity 2x2"]]
    assert {g.step for g in halves} == {(2, 2)}
    assert all(2 * a + 2 * (n - 1) == 0 for g in halves for a, n in zip(g.start, g.counts, strict=True)), (
        "symmetric"
    )


def test_thirteen_by_thirteen_needs_windows_under_small_moduli():
    found = {name: [grid_of(p).counts for p in parts] for name, parts in sums(centred((13, 13)))}
    assert found["parity 3x3"] == [(a, b) for a in (5, 4, 4) for b in (5, 4, 4)]
    assert len(found["parity 2x2 in windows"]) == 9 and "parity 2x2" not in found
    assert len(found["windows 5x5"]) == 9


def test_an_axis_of_one_tap_is_left_alone():
    assert {name for name, _ in sums(centred((1, 31)))} == {
        "parity 1x2", "windows 1x25",
    }  # fmt: skip


def test_a_dilated_kernel_splits_by_its_own_step():
    whole = tap_map([(7, 3, 1, 9, 9, 30)] * 2, (2, 1, 1), 0)
    assert {grid_of(p).step for p in dict(sums(whole))["parity 2x2"]} == {(6, 6)}


@pytest.mark.parametrize("kernel", [(5, 5), (3, 8), (1, 25), (1, 1)])
def test_nothing_within_the_limit_is_split(kernel):
    assert not list(sums(centred(kernel)))


def test_a_linear_layer_has_no_parts():
    linear = plain(((),), grouped(torch.randn(1, 1, 4, 3, dtype=torch.float64)), (), (), (), ())
    assert not list(sums(linear)) and not list(products(linear))


def test_geometry_and_symbolic_sizes_are_enough_for_sums():
    real, sizes = centred((13, 7), (6, 1, 1)), (Sym("h"), Sym("w"))
    matrices = real.blocks.with_weight(real.weight.to("meta"))
    bare = dataclasses.replace(real, blocks=matrices, in_size=sizes, out_size=sizes)
    shapes = [
        [(n, [(p.offsets, p.weight.shape) for p in parts]) for n, parts in sums(t)] for t in (real, bare)
    ]
    assert shapes[0] == shapes[1]
    assert all(
        p.weight.device.type == "meta" and p.in_size == sizes for _, parts in sums(bare) for p in parts
    )
    assert not list(products(bare))


def low_rank(geometry, channels, rank, seed):
    """A map whose kernels are sums of `rank` outer products; in one channel of one less."""
    generator = torch.Generator().manual_seed(seed)
    groups, multiplier = channels
    sides = [
        torch.randn(groups * multiplier, k, rank, generator=generator, dtype=torch.float64)
        for k, *_ in geometry
    ]
    sides[0][0, :, -1] = 0
    planes = sides[0] @ sides[1].mT
    weight = planes.flatten(1).T.reshape(-1, groups, multiplier, 1)
    return tap_map(geometry, None, None, weight)


@given(
    st.tuples(axes(9), axes(9)), st.sampled_from([(5, 1), (2, 3)]), st.integers(1, 3), st.integers(0, 2**31)
)
@SETTINGS
def test_exact_low_rank_is_a_sum_of_compositions(geometry, channels, rank, seed):
    whole = low_rank(geometry, channels, rank, seed)
    heights, widths = (k for k, *_ in geometry)
    true_rank = min(rank, heights, widths)
    found = list(products(whole))
    assert [name for name, _ in found] == (
        [f"rank {true_rank}, height first", f"rank {true_rank}, width first"]
        if true_rank * (heights + widths) < heights * widths
        else []
    )
    x = inputs(whole)
    for _, pairs in found:
        total = reduce(
            add, (compose(first, second) for first, second in pairs)
        )  # raises where padding forbids
        assert (total.stride, total.slack, total.in_size, total.out_size) == (
            whole.stride,
            whole.slack,
            whole.in_size,
            whole.out_size,
        )
        assert total.offsets == whole.offsets and distance(total.weight, whole.weight) < 1e-12
        assert distance(sum(evaluated(b, evaluated(a, x)) for a, b in pairs), evaluated(whole, x)) < 1e-12


def test_a_kernel_of_full_rank_or_nearly_low_rank_is_not_factored():
    whole = low_rank([(7, 1, 1, 3, 3, 12)] * 2, (4, 1), 1, 0)
    assert list(products(whole))
    rounded = dataclasses.replace(whole, blocks=whole.blocks.with_weight(whole.weight.float().double()))
    assert not list(products(rounded)), "rank one up to float32 rounding is not exact"
    assert not list(products(centred((7, 7))))


def test_a_channel_of_zeros_does_not_decide_the_rank():
    whole = low_rank([(7, 1, 1, 3, 3, 12)] * 2, (4, 1), 1, 0)
    whole.weight[:, 2] = 0
    _, pairs = next(products(whole))
    assert len(pairs) == 1 and not compose(*pairs[0]).weight[:, 2].any()


def test_dense_convolutions_have_no_products():
    assert not list(products(centred((7, 7), (1, 2, 2))))
