"""Identities of published methods that train, and so have no code here: each method's own check.

Small references stand in for the methods; what the project has (crops, the roofline, latency tables) is
used where a method meets it. Sources: TAS (arXiv 1905.09717), Single-Path NAS (1904.02877), Once-for-all
(1908.09791), ProxylessNAS (1812.00332), Lavin (2404.03617), self-expanding networks (2401.05686), SNNK
(bundled random features), nested dropout (1402.0915), CKA (1905.00414).
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from compiler.compress.convolution_fit import Convolution
from compiler.compress.crop_kernels import cropped
from compiler.cost.counts import Counts
from compiler.cost.kernel import TensorSpec, kernel_call
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.roofline import Roofline
from compiler.records import Metric


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def interpolated(x, channels):
    """TAS: output j is the mean of input channels floor(j n / m) .. ceil((j + 1) n / m) - 1."""
    n = x.shape[1]
    spans = [(j * n // channels, -(-(j + 1) * n // channels)) for j in range(channels)]
    return torch.stack([x[:, low:high].mean(1) for low, high in spans], 1)


def test_channel_interpolation_is_the_identity_at_equal_size_and_keeps_constants():
    x = _random(2, 8, 3)
    assert torch.equal(interpolated(x, 8), x)
    assert torch.allclose(interpolated(torch.full((1, 8, 1), 3.5), 5), torch.tensor(3.5))
    ramp = torch.arange(8.0).reshape(1, 8, 1)
    assert interpolated(ramp, 4).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]


def test_the_two_widths_sampled_are_always_distinct():
    p = torch.tensor([0.98, 0.01, 0.01]).expand(4000, 3)
    drawn = torch.multinomial(p, 2, generator=torch.Generator().manual_seed(0))
    assert bool((drawn[:, 0] != drawn[:, 1]).all())
    probabilities = (drawn == 0).double().mean(0)
    assert float(probabilities.sum()) > 0.98  # the likely one is nearly always among the two


def test_the_dead_band_penalty_pushes_towards_the_target_from_both_sides():
    def penalty(now, expected, target=100.0, band=0.05):
        return math.log(expected) * ((now > target) - (now < (1 - band) * target))

    assert penalty(101, 90) == -penalty(94, 90) > 0 == penalty(97, 90)


@pytest.mark.parametrize(("size", "share"), [(3, 1), (3, 2), (5, 1), (5, 2), (None, 0)])
def test_hard_thresholds_of_a_superkernel_give_each_of_the_five_options(size, share):
    """d50 (w_a + d100 w_b) of the kernel w3 + d5 ws is the plain depthwise layer of that option."""
    full, x = _random(12, 1, 5, 5), _random(2, 12, 9, 9, seed=1)
    ring = torch.ones(5, 5).double()
    ring[1:4, 1:4] = 0
    kernel = full * (1 - ring) + float(size == 5) * full * ring
    first = torch.arange(12) < 6
    kernel = float(share > 0) * (
        kernel * first[:, None, None, None] + float(share == 2) * kernel * ~first[:, None, None, None]
    )
    zeros = torch.zeros(12).double()
    got = Convolution(kernel, zeros, padding=(2, 2), groups=12)(x)
    if size is None:
        assert not got.any()
        return
    channels = 6 * share
    plain = Convolution(full[:channels], zeros[:channels], padding=(2, 2), groups=channels)
    plain = cropped(plain, 3) if size == 3 else plain
    assert torch.allclose(got[:, :channels], plain(x[:, :channels]), rtol=0, atol=1e-12)
    assert not got[:, channels:].any()


def test_the_runtime_of_a_superkernel_is_the_table_s_but_for_the_entry_it_never_reads():
    """Block 1 of the published Pixel 1 table: k3 e3, k3 e6, k5 e3, k5 e6."""
    k3e3, k3e6, k5e3, k5e6 = 4.4905, 9.2015, 5.9248, 11.5892

    def runtime(d5, d50, d100):
        channels = d50 * (k5e3 + d100 * (k5e6 - k5e3))
        rho = k3e6 / k5e6
        return rho * channels + d5 * (1 - rho) * channels

    assert runtime(1, 1, 1) == pytest.approx(k5e6) and runtime(1, 1, 0) == pytest.approx(k5e3)
    assert runtime(0, 1, 1) == pytest.approx(k3e6) and runtime(1, 0, 1) == 0
    assert runtime(0, 1, 0) == pytest.approx(k3e6 / k5e6 * k5e3) != pytest.approx(k3e3)


def test_a_sliced_subnet_is_the_masked_supernet():
    """Once-for-all: channels sorted by importance, the first ones kept, in both layers."""
    first, second, x = _random(24, 8, 3, 3), _random(6, 24, 3, 3, seed=1), _random(2, 8, 7, 7, seed=2)
    order = first.abs().sum((1, 2, 3)).argsort(descending=True)
    first, second = first[order], second[:, order]
    mask = (torch.arange(24) < 16).double()[:, None, None]
    masked = F.conv2d(F.relu(F.conv2d(x, first, padding=1)) * mask, second, padding=1)
    sliced = F.conv2d(F.relu(F.conv2d(x, first[:16], padding=1)), second[:, :16], padding=1)
    assert torch.allclose(masked, sliced, rtol=0, atol=1e-10)


def _kernels(count):
    def spec(*shape, constant=False):
        return TensorSpec(shape, "float32", constant)

    weights = [spec(8 * (i + 1), 16, constant=True) for i in range(count)]
    return [
        kernel_call("aten.linear.default", {"input": spec(1, 16), "weight": w, "bias": None}) for w in weights
    ]


def test_one_hot_gates_make_the_expected_latency_the_sum_of_the_table():
    kernels = _kernels(6)
    entries = {k.text: Entry(10.0 + i, 9.0 + i, 11.0 + i) for i, k in enumerate(kernels)}
    table = LatencyTable("device", "target", 1, Metric.WALL, entries)
    layers = [kernels[:3], kernels[3:]]  # two layers of three candidates

    def expected(gates):
        pairs = zip(gates, layers, strict=True)
        return sum(
            float(p) * table.cost(k) for gate, layer in pairs for p, k in zip(gate, layer, strict=True)
        )

    for first in range(3):
        for second in range(3):
            gates = F.one_hot(torch.tensor([first, second]), 3)
            assert expected(gates) == table.cost(layers[0][first]) + table.cost(layers[1][second])
    even = torch.full((2, 3), 1 / 3)
    assert expected(even) == pytest.approx(sum(entry.median for entry in entries.values()) / 3)


def test_total_efficiency_is_the_harmonic_mean_by_operations_and_no_time_is_below_the_ideal():
    """Lavin: 1 / C_total = sum f_k / C_k, with C_k = ideal / actual time of layer k."""
    machine = Roofline(macs_per_byte=4.0, launch_macs=0.0)
    layers = [Counts(4e6, 1e5), Counts(1e6, 2.5e6), Counts(2e6, 1e6)]
    times = [machine.cost(layer) for layer in layers]
    operations = sum(layer.macs for layer in layers)
    efficiency = [layer.macs / time for layer, time in zip(layers, times, strict=True)]
    assert efficiency == [1.0, 0.1, 0.5]
    inverse = sum(layer.macs / operations / c for layer, c in zip(layers, efficiency, strict=True))
    assert operations / sum(times) == pytest.approx(1 / inverse)
    for layer, time in zip(layers, times, strict=True):
        assert time >= max(layer.macs, layer.bytes * machine.macs_per_byte)


def test_the_published_efficiencies_average_harmonically():
    n, c = (4, 1, 2), (0.8, 0.1, 0.4)
    assert sum(n) / sum(a / b for a, b in zip(n, c, strict=True)) == pytest.approx(0.35)
    assert sum(a * b for a, b in zip(n, c, strict=True)) / sum(n) == pytest.approx(0.586, abs=5e-4)


def expansion_score(gradients):
    """Self-expanding networks: g' F^-1 g with the mean gradient and the diagonal empirical Fisher."""
    return float((gradients.mean(0).square() / gradients.square().mean(0)).sum())


def test_the_expansion_score_never_exceeds_the_parameter_count():
    for seed in range(20):
        assert expansion_score(_random(30, 60, seed=seed) + seed / 10) <= 60
    assert expansion_score(_random(1, 60).expand(30, 60)) == pytest.approx(60)  # samples that agree


def test_an_identity_inserted_changes_nothing_before_noise():
    x, weight = _random(2, 6, 5, 5), torch.zeros(6, 6, 3, 3).double()
    weight[range(6), range(6), 1, 1] = 1
    assert torch.equal(F.conv2d(x, weight, padding=1), x)


def test_random_relu_features_give_the_arc_cosine_kernel_and_not_the_layer():
    generator = torch.Generator().manual_seed(0)
    x, w = torch.tensor([0.6, -0.2, 0.3]).double(), torch.tensor([-0.5, 0.4, 0.6]).double()
    g = torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    product = F.relu(g @ x) * F.relu(g @ w)
    angle = torch.acos(x @ w / x.norm() / w.norm())
    kernel = x.norm() * w.norm() / (2 * math.pi) * (angle.sin() + (math.pi - angle) * angle.cos())
    error = float(product.std()) / math.sqrt(len(product))
    assert abs(float(product.mean() - kernel)) < 4 * error
    assert float(F.relu(w @ x)) == 0 < float(kernel) - 20 * error


def test_truncated_features_lose_less_with_every_dimension_and_least_in_pca_order():
    x = _random(300, 10) @ _random(10, 10, seed=1)
    x = x - x.mean(0)
    _, vectors = torch.linalg.eigh(x.T @ x)

    def errors(basis):
        return [float((x - x @ basis[:, :k] @ basis[:, :k].T).square().sum()) for k in range(11)]

    best, raw, worst = errors(vectors.flip(1)), errors(torch.eye(10).double()), errors(vectors)
    for found in (best, raw, worst):
        assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(found))
    assert all(b <= r + 1e-9 and r <= w + 1e-9 for b, r, w in zip(best, raw, worst, strict=True))
    turned = torch.linalg.qr(_random(10, 10, seed=2))[0]
    assert sum(best) < sum(errors(turned)) < sum(worst)


def cka(x, y):
    """Linear CKA of features [rows, width]; with few rows it is near 1 for anything, and so refused."""
    for features in (x, y):
        if len(features) < 5 * features.shape[1]:
            raise ValueError(
                f"{len(features)} rows are too few for {features.shape[1]} columns: give 5 times as many"
            )
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def test_cka_sees_no_rotation_scale_or_shift_but_sees_a_linear_map():
    x, y = _random(200, 8), _random(200, 8, seed=1) + 0.5 * _random(200, 8)
    turned = x @ torch.linalg.qr(_random(8, 8, seed=2))[0]
    assert cka(x, y) == pytest.approx(cka(3 * turned - 7, y)) == pytest.approx(cka(y, x))
    assert cka(x, x) == pytest.approx(1)
    assert abs(cka(x @ torch.diag(torch.logspace(-1, 1, 8).double()), y) - cka(x, y)) > 0.01
    assert cka(_random(2000, 8, seed=3), _random(2000, 8, seed=4)) < 0.05


def test_cka_refuses_rows_below_five_times_the_width():
    with pytest.raises(ValueError, match="39 rows are too few for 8 columns"):
        cka(_random(39, 8), _random(39, 8, seed=1))
