"""A search's report with everything in it, made up: crowded points, long names, text that is not safe in HTML."""

import math

from edgewright.search_report.data import Departure, Interval, KernelRow, PlanRow, ReportData, Variant

HOSTILE = 'net</script><script>console.error("ran")</script>&"q"'


def around(value, share):
    return Interval(value, value * (1 - share), value * (1 + share))


def variant(index, ratio, cost, **fields):
    latency = around(ratio, 0.02)
    values = {
        "within": latency.high <= 0.7,
        "chosen": False,
        "front": False,
        "bytes": 4_000_000 + 100_000 * index,
        "ideal": ratio * (0.35 + 0.04 * (index % 7)),
    }
    price = None if cost is None else around(cost, 0.1) if cost else Interval(0, 0, 0)
    return Variant(f"int8 in {index},{index + 1}", latency, price, **{**values, **fields})


def variants():
    rows = [
        variant(0, 1.0, 0.0, front=True, fitted=1.0),
        variant(1, 0.46, 0.0026, front=True, fitted=0.47),
        variant(2, 0.66, 0.00011, front=True, chosen=True, predicted=0.665, fitted=0.661),
        variant(3, 0.72, 0.0000586, predicted=0.654, fitted=0.71),
        variant(4, 0.67, 0.0004, predicted=0.608, fitted=0.665),
        variant(5, 0.83, None, fitted=0.82),
    ]
    crowd = [
        variant(6 + i, 0.8 + 0.02 * (i % 9), 2e-5 * 1.4**i, fitted=0.81 + 0.02 * (i % 9)) for i in range(18)
    ]
    return tuple([*rows, *crowd])


def kernel(index):
    depthwise = index % 3 == 1
    operations, moved = (4e5, 3e5) if depthwise else (5e6 * (1 + index % 5), 2.5e5 * (1 + index % 4))
    int8 = index % 4 == 0
    balance = 32.0 if int8 else 8.0
    rate = 128.0 if int8 else 32.0
    attainable = max(operations / rate, moved / 4)
    return KernelRow(
        name=HOSTILE if index == 3 else f"conv2d_{index}",
        op="aten.conv2d.default",
        module=f"features.{index // 3}.block.conv",
        precision="int8" if int8 else "float32",
        operations=operations,
        bytes=moved,
        intensity=operations / moved,
        balance=balance,
        bound="bandwidth" if operations / moved < balance else "compute",
        attainable=attainable,
        measured=None if index % 5 == 2 else attainable * (1.2 + (index % 3)),
    )


def departure(index):
    cost = 3e-3 * math.exp(-0.5 * index)
    return Departure(
        f"segment:features.{index}.block..features.{index + 1}.block.a_long_name_of_a_module",
        "precision",
        "int8",
        Interval(cost, cost * 0.6, cost * 1.5),
        around(0.9 - 0.01 * index, 0.02),
        index % 3 == 0,
    )


def plan_row(index):
    taken = index % 3 == 0
    return PlanRow(
        f"features.{index // 2}",
        HOSTILE if index == 11 else f"segment:features.{index}",
        "precision",
        "int8" if taken else None,
        -0.031 * index if taken else None,
        around(2e-4, 0.3) if taken else None,
    )


def made_up(**fields):
    values = {
        "model": HOSTILE,
        "device": "emulated board",
        "target": "executorch",
        "budget": "0.7x",
        "limit": 0.7,
        "upper": 0.677,
        "unit": "× merged float model",
        "cost_unit": "KL divergence in nats",
        "variants": variants(),
        "plan": tuple(map(plan_row, range(12))),
        "departures": tuple(map(departure, range(12))),
        "kernels": tuple(map(kernel, range(54))),
        "kernel_unit": "µs",
        "machine": "the highest rates that any of 143 kernels measured on this device reached",
        "unseen": Interval(0.000112, 0.000108, 0.000115),
        "samples": 64,
        "advice": ("24 calibration samples are few",),
    }
    return ReportData(**{**values, **fields})
