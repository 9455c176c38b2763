"""Matrices by blocks behave as the dense matrices they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compiler.merge import blocks
from compiler.merge.blocks import Blocks

pytestmark = pytest.mark.core
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def matrices(draw: st.DrawFn, columns: int | None = None, taps: int = 2) -> Blocks:
    """Draw blocks of any structure; `columns` fixes the width."""
    width = draw(st.sampled_from([1, 2, 3, 4, 6]))
    columns = columns or width * draw(st.sampled_from([1, 2, 3, 4]))
    assume(columns % width == 0)
    groups, rows = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3]))
    source = tuple(draw(st.integers(0, columns // width - 1)) for _ in range(groups))
    if draw(st.booleans()) and groups * width <= columns and groups == columns // width:
        source = tuple(range(groups))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return Blocks(torch.randn(taps, groups, rows, width, generator=generator).double(), source, columns)


def dense(matrix: Blocks) -> torch.Tensor:
    """Return the matrix of each tap, built without the code under test."""
    count, groups, rows, width = matrix.weight.shape
    whole = torch.zeros(count, groups * rows, matrix.columns, dtype=torch.float64)
    for g, source in enumerate(matrix.source):
        whole[:, g * rows : (g + 1) * rows, source * width : (source + 1) * width] = matrix.weight[:, g]
    return whole


@QUICK
@given(matrices())
def test_one_group_is_the_whole_matrix(matrix: Blocks) -> None:
    assert torch.equal(blocks.regrouped(matrix, 1).weight[:, 0], dense(matrix))
    coarse = blocks.coarse(matrix)
    assert coarse.standard
    assert torch.equal(dense(coarse), dense(matrix))


@QUICK
@given(matrices(), st.data())
def test_rows_are_picked_without_a_zero_stored(matrix: Blocks, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, matrix.rows - 1), min_size=1, max_size=9)))
    picked = blocks.rows(matrix, index)
    assert torch.equal(dense(picked), dense(matrix)[:, index])
    assert picked.weight.shape[3] == matrix.weight.shape[3]


@QUICK
@given(matrices(columns=12), matrices(columns=12))
def test_stack_and_sum(a: Blocks, b: Blocks) -> None:
    assert torch.equal(dense(blocks.stack([a, b])), torch.cat([dense(a), dense(b)], 1))
    if a.rows == b.rows:
        assert torch.allclose(dense(blocks.add(a, b)), dense(a) + dense(b), rtol=0, atol=1e-12)


@QUICK
@given(st.data())
def test_product(data: st.DataObject) -> None:
    first = data.draw(matrices())
    second = data.draw(matrices(columns=first.rows))
    got = dense(blocks.product(second, first))
    wanted = torch.einsum("uoi,tij->utoj", dense(second), dense(first)).flatten(0, 1)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_a_grouped_product_stays_grouped() -> None:
    a = blocks.grouped(torch.randn(1, 4, 3, 2).double())
    b = blocks.grouped(torch.randn(1, 4, 5, 3).double())
    assert blocks.product(b, a).groups == 4
    assert blocks.product(blocks.grouped(torch.randn(1, 2, 5, 6).double()), a).groups == 2
