"""The arena of a static program: what is alive together never overlaps, and little is wasted."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.tvm.static import ALIGNMENT
from targets.tvm.static.arena import Lifetime, aligned, in_a_row, plan
from targets.tvm.static.layout import lay_out, lifetimes
from targets.tvm.static.program import Call, Kind, Program, Refusal, Storage, Tensor, element_bytes

pytestmark = pytest.mark.core  # no SDK is asked for

LIFE = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(0, 5000),
    st.integers(0, 30),
    st.integers(0, 12),
)


def overlap(a, b, values, offsets):
    start, end = max(offsets[a], offsets[b]), min(offsets[a] + values[a].size, offsets[b] + values[b].size)
    return values[a].meets(values[b]) and start < end


@settings(max_examples=300, deadline=None)
@given(st.lists(LIFE, max_size=40))
def test_random_lives_never_overlap_in_memory_and_time(values):
    found = plan(values)
    assert not [
        p for p in itertools.combinations(range(len(values)), 2) if overlap(*p, values, found.offsets)
    ]
    assert all(offset % ALIGNMENT == 0 for offset in found.offsets)
    assert all(o + v.size <= found.size for o, v in zip(found.offsets, values, strict=True))
    busiest = max(
        (sum(aligned(v.size) for v in values if v.first <= t <= v.last) for t in range(45)), default=0
    )
    assert busiest <= found.size <= sum(aligned(v.size) for v in values)


def test_a_chain_of_equal_values_takes_the_room_of_two():
    chain = [Lifetime(1000, t, t + 1) for t in range(20)]
    assert plan(chain).size == 2 * aligned(1000)


def test_a_value_is_alive_in_the_call_that_reads_it_last():
    assert plan([Lifetime(64, 0, 1), Lifetime(64, 1, 2)]).size == 128
    assert plan([Lifetime(64, 0, 1), Lifetime(64, 2, 3)]).size == 64


def test_a_gap_is_filled_by_what_fits():
    values = [Lifetime(256, 0, 9), Lifetime(128, 0, 3), Lifetime(128, 4, 9)]
    assert plan(values).offsets == (0, 256, 256)


def test_values_in_a_row_are_aligned():
    assert in_a_row([1, 64, 65]).offsets == (0, 64, 128) and in_a_row([1, 64, 65]).size == 256
    assert in_a_row([]).size == 0


def test_a_view_keeps_its_storage_alive_and_equal_programs_have_one_layout():
    storages = (
        Storage(Kind.INPUT, 16),
        Storage(Kind.SCRATCH, 16),
        Storage(Kind.SCRATCH, 16),
        Storage(Kind.WEIGHT, 4, b"wxyz"),
        Storage(Kind.OUTPUT, 16),
    )
    tensors = (
        *(Tensor(i, (4,), "float32") for i in range(3)),
        Tensor(1, (2, 2), "float32"),  # a view of the first value that is computed
        Tensor(3, (1,), "float32"),
        Tensor(4, (4,), "float32"),
    )
    calls = (Call("a", (0, 4, 1)), Call("b", (0, 2)), Call("c", (3, 2, 5)))
    program = Program(storages, tensors, calls, (0,), (5,))
    assert lifetimes(program)[1] == Lifetime(16, 0, 2)
    layout = lay_out(program)
    assert layout.sizes[Kind.SCRATCH] == 128 and layout.offsets[1] != layout.offsets[2]
    assert layout.weights[:64].startswith(b"edgewright.weights/1 " + layout.digest.encode())
    assert layout.weights[64:68] == b"wxyz" and len(layout.weights) == 128
    assert lay_out(program) == layout


def test_elements_are_whole_bytes():
    assert [element_bytes(t) for t in ("bool", "int8", "float16", "bfloat16", "int64")] == [1, 1, 2, 2, 8]
    for odd in ("int4", "float8_e4m3", "handle"):
        with pytest.raises(Refusal, match=odd):
            element_bytes(odd)
