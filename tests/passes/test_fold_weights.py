"""What is weight-only, what is not, how it is computed, and where: at build, at load, or at the call."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.graph import Graph
from compiler.ir.text import parse_graph
from compiler.ir.verify import verify
from compiler.merge import merge
from compiler.passes.canonicalize import canonicalize
from compiler.passes.copies import resolve_copies
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from compiler.passes.load_time import load_generators
from compiler.passes.placement import Place, Placement, Threshold, placements
from compiler.passes.share import share
from tests.models.graphs import ops, relative_error, stored_bytes, through_passes


def unfolded(module: nn.Module, *inputs: torch.Tensor) -> Graph:
    """Return a module's graph as the folding finds it."""
    return dead_code(share(resolve_copies(canonicalize(import_model(module.eval(), inputs)))))


def folded(graph: Graph) -> Graph:
    result = dead_code(fold_weights(graph))
    verify(result)
    return result


def loaded(graph: Graph, *options: Threshold) -> tuple[Graph, tuple[Placement, ...]]:
    """Return a graph folded for a runtime that computes weights at load, and where each cone went."""
    result, places = load_generators(folded(graph), graph, *options)
    verify(result)
    return result, places


class Kronecker(nn.Module):
    """A linear layer whose weight is a sum of Kronecker products (`merges.md` 2.15)."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(n, n, n))
        self.f = nn.Parameter(torch.randn(n, width // n, width // n))

    def weight(self) -> torch.Tensor:
        blocks = self.a[:, :, None, :, None] * self.f[:, None, :, None, :]
        return blocks.sum(0).reshape(blocks.shape[1] * blocks.shape[2], -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight())


class Unrolled(nn.Module):
    """A kernel assembled by slice assignment, BN-and-pad, and a destination that is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.base = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.frame = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = torch.zeros_like(self.base)
        kernel[:, :, 1:2, 1:2] = self.point
        bias = x.new_ones(4)
        bias[:] = self.frame.exp()
        y = F.pad(x, [1] * 4)
        frame = (self.frame * 2).view(1, -1, 1, 1)
        y[:, :, 0:1, :], y[:, :, :, -1:] = frame, frame
        return F.conv2d(y, kernel + self.base, bias)


def test_slice_assignments_fold_in_kernels_and_stay_in_activations() -> None:
    torch.manual_seed(0)
    module, x = Unrolled(), torch.randn(1, 4, 6, 6)
    graph = through_passes(module, x)
    kept = [op for op in ops(graph) if op not in ("expand", "reshape")]
    assert kept == ["constant_pad_nd", "slice_scatter", "slice_scatter", "conv2d"]
    assert relative_error(graph, module, [x]) < 1e-7


def test_a_copy_has_its_source_broadcast_and_cast() -> None:
    text = """graph {
      %x = input : float32[2, 3]
      %w = constant "0" : float64[3]
      %s = aten.slice.Tensor(self=%x, dim=0, start=0, end=2, step=1) : float32[2, 3]
      %c = aten.copy.default(self=%s, src=%w, non_blocking=false) : float32[2, 3]
      %e = aten.exp.default(self=%c) : float32[2, 3]
      %y = aten.cat.default(tensors=[%x, %e], dim=0) : float32[4, 3]
      return(r0=%y)
    }"""
    w, x = torch.randn(3, dtype=torch.float64), torch.randn(2, 3)
    wanted = torch.cat([x, w.float().exp().expand(2, 3)])
    for graph in (parse_graph(text, {"w": w}), resolve_copies(parse_graph(text, {"w": w}))):
        assert ops(folded(graph)) == ["cat"]
        torch.testing.assert_close(evaluate(folded(graph), [x])[0], wanted)
        torch.testing.assert_close(evaluate(graph, [x])[0], wanted)


def test_shapes_are_read_and_contents_are_not() -> None:
    text = """graph {
      symbols {"n0": [1, 9]}
      %x = input : float32[2, 3]
      %d = input : float32[n0]
      %f = aten.full_like.default(self=%x, fill_value=3.0) : float32[2, 3]
      %g = aten.zeros_like.default(self=%d) : float32[n0]
      %e = aten.empty_like.default(self=%x) : float32[2, 3]
      %r = aten.rand_like.default(self=%f) : float32[2, 3]
      %a = aten.add.Tensor(self=%f, other=%f) : float32[2, 3]
      %b = aten.add.Tensor(self=%e, other=%r) : float32[2, 3]
      %y = aten.mul.Tensor(self=%x, other=%a) : float32[2, 3]
      return(r0=%y, r1=%b, r2=%g)
    }"""
    graph = folded(parse_graph(text))
    assert sorted(ops(graph)) == ["add", "empty_like", "mul", "rand_like", "zeros_like"]
    assert sorted(c.tensor.unique().tolist() for c in graph.constants.values()) == [[3.0], [6.0]]


def test_what_reads_a_state_stays() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = (self.seen + self.weight).exp()
            self.seen.add_(1.0)
            return x * scale

    graph = through_passes(Counter(), torch.randn(2, 3))
    assert "exp" in ops(graph)


class Spectral(nn.Module):
    """Kernels held as spectra: a complex product, an inverse FFT, a conjugated transform (2.16, 2.18)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
        self.bank = nn.Parameter(torch.randn(4, 5, 2))
        self.scales = nn.Parameter(torch.randn(3, 1, 8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kernel = torch.fft.irfft(self.mix @ torch.view_as_complex(self.bank), n=8)
        long = F.interpolate(self.scales, size=16, mode="linear").squeeze(1)
        spectrum = torch.fft.rfft(long, n=32).conj()
        y = torch.fft.irfft(torch.fft.rfft(x.repeat(1, 2), n=32) * spectrum)[..., :16]
        return x @ kernel.t(), y


def test_spectra_fold_in_double_width() -> None:
    torch.manual_seed(0)
    module, x = Spectral().eval(), torch.randn(3, 8)
    graph = through_passes(module, x)
    assert ops(graph).count("fft_rfft") == ops(graph).count("fft_irfft") == 1  # of the input, and back
    assert not {"upsample_linear1d", "view_as_complex", "_conj"} & set(ops(graph))
    [kernel] = [c.tensor for c in graph.constants.values() if sorted(c.tensor.shape) == [3, 8]]
    mix, bank = module.mix.detach().to(torch.complex128), module.bank.detach().double()
    exact = torch.fft.irfft(mix @ torch.view_as_complex(bank), n=8).float()
    kernel = kernel if kernel.shape == exact.shape else kernel.t()  # a product or a linear reads it
    assert torch.equal(kernel, exact), "computed in complex128 and rounded once"
    for got, wanted in zip(evaluate(graph, [x]), module(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_cone_that_several_layers_read_is_stored_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Kronecker(2, 8)
            self.other = nn.Linear(8, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.layer.weight()
            y = F.linear(torch.relu(F.linear(x, weight)), weight)
            return F.linear(y, self.other.weight * weight.sigmoid())

    torch.manual_seed(0)
    module, x = Shared(), torch.randn(3, 8)
    graph = through_passes(module, x)
    assert ops(graph) == ["linear", "relu", "linear", "linear"]
    assert stored_bytes(graph) == 2 * 4 * 64
    assert relative_error(graph, module, [x]) < 1e-6


def test_a_small_generator_is_left_to_a_runtime_that_folds_when_it_loads() -> None:
    torch.manual_seed(0)
    module, x = Kronecker(8, 1024), torch.randn(2, 1024)
    graph = unfolded(module, x)
    kept, [place] = loaded(graph)
    assert (place.place, place.folded_bytes) == (Place.LOAD, 4 * 1024 * 1024)
    assert place.generator_bytes == 4 * (8**3 + 1024 * 1024 / 8)
    assert stored_bytes(kept) == place.generator_bytes
    assert relative_error(kept, module, [x]) < 1e-12
    assert ops(kept) == ops(graph)
    built = folded(graph)
    assert ops(built) == ["linear"]
    assert stored_bytes(built) == place.folded_bytes
    [place] = placements(graph)
    assert (place.place, "without load-time initialisers" in place.reason) == (Place.BUILD, True)


@pytest.mark.parametrize(("n", "width"), [(2, 1024), (8, 256)])  # half the bytes; less than 1 MiB
def test_a_generator_that_saves_little_is_not_kept(n: int, width: int) -> None:
    graph = unfolded(Kronecker(n, width), torch.randn(2, width))
    kept, [place] = loaded(graph)
    assert (place.place, place.reason) == (Place.BUILD, "the generator is not much smaller than its result")
    assert ops(kept) == ["linear"]
    _, places = loaded(graph, Threshold(ratio=1.5, least_saved_bytes=1))
    assert [p.place for p in places] == [Place.LOAD]


class Masks(nn.Module):
    """One weight under a mask a layer: keeping the generator stores the weight once."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.scales = nn.ParameterList(torch.randn(width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for scale in self.scales:
            x = torch.relu(F.linear(x, self.weight * scale))
        return x


def test_a_shared_generator_counts_for_its_share() -> None:
    torch.manual_seed(0)
    module, x = Masks(4, 600), torch.randn(2, 600)
    graph = unfolded(module, x)
    kept, places = loaded(graph)
    assert [p.place for p in places] == [Place.LOAD] * 4
    assert places[0].generator_bytes == 4 * (600 * 600 / 4 + 600)
    assert stored_bytes(kept) == 4 * (600 * 600 + 4 * 600)
    assert relative_error(kept, module, [x]) < 1e-6
    _, pair = loaded(unfolded(Masks(2, 600), x))
    assert [p.place for p in pair] == [Place.BUILD] * 2, "half a weight each is not much smaller"


def test_a_reader_that_is_built_leaves_its_share_to_the_others() -> None:
    class OneLarge(Masks):
        def __init__(self) -> None:
            super().__init__(3, 600)
            self.mask = nn.Parameter(torch.randn(600, 600))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(super().forward(x), self.weight * self.mask)

    _, places = loaded(unfolded(OneLarge(), torch.randn(2, 600)))
    assert [p.place for p in places] == [Place.BUILD] * 4, "a third of the weight each, no more a quarter"


def test_a_constant_that_is_stored_anyway_costs_a_generator_nothing() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Kronecker(8, 1024)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.layer(x), y * self.layer.f

    graph = unfolded(Reused(), torch.randn(2, 1024), torch.randn(8, 128, 128))
    kept, [place] = loaded(graph)
    assert (place.place, place.generator_bytes) == (Place.LOAD, 4 * 8**3)
    assert stored_bytes(kept) == 4 * (8**3 + 8 * 128 * 128), "the constant that is read anyway is stored once"


def test_what_is_built_under_a_generator_is_stored_and_costs_it_nothing() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Kronecker(8, 1024)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            factor = self.layer.f.tanh()
            blocks = self.layer.a[:, :, None, :, None] * factor[:, None, :, None, :]
            return F.linear(x, blocks.sum(0).reshape(1024, 1024)), y * factor

    torch.manual_seed(0)
    module, inputs = Nested(), (torch.randn(2, 1024), torch.randn(8, 128, 128))
    graph = unfolded(module, *inputs)
    kept, places = loaded(graph)
    first, second = sorted(places, key=lambda p: p.folded_bytes)
    assert (first.place, second.place) == (Place.BUILD, Place.LOAD)
    assert second.generator_bytes == 4 * 8**3
    assert stored_bytes(kept) == 4 * (8**3 + 8 * 128 * 128)
    assert relative_error(kept, module, inputs) < 1e-6


@pytest.mark.parametrize("kind", ["complex", "buckets"])
def test_arithmetic_that_a_runtime_may_do_otherwise_is_built(kind: str) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.Parameter(torch.randn(600, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if kind == "complex":
                spectrum = torch.view_as_complex(self.core)
                return F.linear(x, (spectrum[:, None] * spectrum).real)
            index = (self.core[:, :1] * 10).long()
            return F.linear(x, (index * index.t()).float())

    graph = unfolded(Large(), torch.randn(2, 600))
    _, [place] = loaded(graph)
    assert place.place is Place.BUILD
    assert ("is complex" if kind == "complex" else "turns floats into integers") in place.reason


def test_a_weight_that_a_merge_made_over_is_built() -> None:
    """The scale behind the first layer folds into its weight; the generator of the second comes back."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Kronecker(8, 1024), Kronecker(8, 1024)
            self.scale = nn.Parameter(torch.randn(1024))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x) * self.scale))

    torch.manual_seed(0)
    module, x = Pair(), torch.randn(2, 1024)
    graph = unfolded(module, x)
    merged, _ = merge(folded(graph))
    assert ops(merged) == ["linear", "relu", "linear"]
    kept, (first, second) = load_generators(merged, graph)
    verify(kept)
    assert (first.place, second.place) == (Place.BUILD, Place.LOAD)
    assert first.reason == "its result is no weight of the program: a merge made it over"
    assert stored_bytes(kept) == 4 * (1024 * 1024 + 8**3 + 1024 * 1024 / 8)
    assert relative_error(kept, module, [x]) < 1e-6


def test_a_shape_that_comes_from_elsewhere_is_built() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = nn.Parameter(torch.randn(600))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (torch.ones_like(x) * self.row)

    graph = unfolded(Filled(), torch.randn(600, 600))
    kept, [place] = loaded(graph)
    assert (place.place, ops(kept)) == (Place.BUILD, ["matmul"])
    assert "takes its shape from x" in place.reason


def test_a_movement_of_a_tied_weight_is_reported() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(256, 256))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight) * self.weight.t()

    [place] = placements(unfolded(Tied(), torch.randn(256, 256)))
    assert place.place is Place.CALL
    assert place.reason == "folding would store weight a second time: matmul reads it as well"
