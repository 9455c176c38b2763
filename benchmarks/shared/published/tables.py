"""Published device tables as tasks: what is known of each program, and what it took on one device.

A file is CSV behind `#` lines that name its source and licence. `Task.given` is what our predictor sees,
`Task.plain` what trees and processes are given (the same knowledge as numbers), `Task.work` the operations.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shared.published import cells

from compiler.cost.transfer import Programs, programs

Floats = NDArray[np.float64]
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """The programs of one table on one device, `groups` naming those that are held out together."""

    table: str
    device: str
    times: Floats
    given: dict[str, Programs]
    plain: Floats
    work: Floats
    tables: dict[str, Floats] = field(default_factory=dict)  # amounts that rivals fit by non-negative squares
    elsewhere: Floats | None = None
    groups: tuple[str, ...] = ()
    twins: tuple[tuple[int, int], ...] = ()  # programs that are the same network


def read(path: Path) -> Rows:
    """Return the rows of a table."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def column(rows: Rows, name: str) -> Floats:
    """Return a column of numbers, nan where a cell is empty."""
    return np.array([float(row[name]) if row[name] else math.nan for row in rows])


def nas_bench(path: Path) -> Iterator[Task]:
    """Yield NAS-Bench-201's connected cells on three devices."""
    rows = [r for r in read(path) if r["no_path"] == "0" and r["pixel3"]]
    codes = np.array([[int(digit) for digit in r["code"]] for r in rows])
    views = {name: cells.counts(kept) for name, kept in cells.views(codes).items()}
    work = column(rows, "macs_m")
    devices = ("pixel3", "samsung_a50", "gold_6226", "1080ti_1")
    times = {name: column(rows, name) for name in devices}
    same = tuple(cells.twins(codes))
    for device in devices[:3]:
        elsewhere = np.stack([np.maximum(times[d], 0.1) for d in devices if d != device], 1)
        details = np.concatenate([cells.indicators(codes), views["used"]], 1)
        plain = np.concatenate([cells.indicators(codes), views["all"], views["live"], work[:, None]], 1)
        given = {"ours": programs(views, details), "ours + devices": programs(views, details, elsewhere)}
        tables = {"LUT, all edges": views["all"], "LUT, live edges": views["live"]}
        yield Task("NAS-Bench-201", device, times[device], given, plain, work, tables, elsewhere, twins=same)


def fbnet(path: Path) -> Iterator[Task]:
    """Yield FBNet's networks: operators of 22 layers, alone and by stage."""
    rows = read(path)
    codes = np.array([[int(digit) for digit in r["code"]] for r in rows])
    stage = np.repeat(np.arange(7), (1, 4, 4, 4, 4, 4, 1))
    expansion, taps = np.array((1, 1, 3, 6, 1, 1, 3, 6, 0)), np.array((9, 9, 9, 9, 25, 25, 25, 25, 0))
    grouped = np.array((0, 1, 0, 0, 0, 1, 0, 0, 0))
    operators = np.stack([(codes == o).sum(1) for o in range(8)], 1).astype(float)
    layers = np.concatenate([codes == o for o in range(8)], 1).astype(float)
    kinds = (expansion, expansion * taps, expansion > 0, grouped)
    amounts = [of[codes[:, stage == s]].sum(1) for of in kinds for s in range(7)]
    stages = np.stack(amounts, 1).astype(float)
    devices = ("samsung_a50", "pixel2", "gold_6226")
    times = {name: column(rows, name) for name in devices}
    for device in devices:
        elsewhere = np.stack([times[d] for d in devices if d != device], 1)
        views = {"operators": operators, "stages": stages, "layers": layers}
        details = np.concatenate([operators, stages], 1)
        given = {"ours": programs(views, details), "ours + devices": programs(views, details, elsewhere)}
        plain = np.concatenate([layers, operators], 1)
        tables = {"LUT, operators": operators, "LUT, layers": layers}
        yield Task("FBNet", device, times[device], given, plain, stages.sum(1), tables, elsewhere)


def hat(path: Path) -> Iterator[Task]:
    """Yield HAT's encoder-decoder transformers on a Raspberry Pi."""
    rows = read(path)
    names = [n for n in rows[0] if not n.startswith("latency")]
    shape = {name: column(rows, name) for name in names}
    parts, work = [], np.zeros(len(rows))
    for side in ("encoder", "decoder"):
        depth, width = shape[f"{side}_layer_num"], shape[f"{side}_embed_dim"]
        ffn = shape[f"{side}_ffn_embed_dim_avg"]
        heads = shape[f"{side}_self_attention_heads_avg"]
        parts += [depth, depth * width, depth * width * ffn, depth * heads, depth * width * heads]
        work += depth * width * (2 * ffn + 4 * 64 * heads)
    cross = shape["decoder_ende_attention_heads_avg"] * shape["decoder_layer_num"]
    parts += [cross, cross * shape["encoder_embed_dim"], shape["decoder_embed_dim"]]
    blocks, details = np.stack(parts, 1), np.stack([shape[n] for n in names], 1)
    times = column(rows, "latency_mean_encoder") + column(rows, "latency_mean_decoder")
    given = {"ours": programs({"blocks": blocks}, details)}
    plain = np.concatenate([details, blocks], 1)
    yield Task("HAT, WMT'14 en-de", "raspberry_pi", times, given, plain, work, {"LUT, blocks": blocks})


def synthetic(path: Path) -> Iterator[Task]:
    """Yield a thousand drawn networks of which FLOPs and size are all that is known."""
    rows = read(path)
    work, size = column(rows, "FLOPS"), column(rows, "size")
    phones = ("pixel4", "a03s", "iphonexs")
    for phone, cores in (("pixel4", "1large|float"), ("a03s", "1large|quant"), ("iphonexs", "gpu|float")):
        columns = {p: column(rows, f"{p}|{cores}|mean") for p in phones}
        keep = np.all([np.isfinite(c) & (c > 0) for c in columns.values()], 0)
        times = columns[phone][keep]
        elsewhere = np.stack([columns[p][keep] for p in phones if p != phone], 1)
        known = np.stack([work, size], 1)[keep]
        views, details = {"FLOPs and size": known}, np.log(known)
        given = {"ours": programs(views, details), "ours + devices": programs(views, details, elsewhere)}
        plain = np.concatenate([details, np.log(elsewhere)], 1)
        tables = {"LUT, FLOPs and size": known}
        yield Task("synthetic CNNs", f"{phone} {cores}", times, given, plain, work[keep], tables, elsewhere)


def operator_sums(whole: Path, operators: Path, family: Callable[[str], str]) -> Iterator[Task]:
    """Yield real networks on phone GPUs, of which every operator was timed; families are held out."""
    rows = [r for r in read(whole) if r["pixel4|gpu|float|mean"]]
    for phone in ("pixel4", "a03s", "iphonexs"):
        by_model: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for op in read(operators):
            by_model[op["model"]][op["operation"]] += float(op[f"{phone}|gpu|float"] or "nan")
        own = [r for r in rows if r["model"] in by_model and r[f"{phone}|gpu|float|mean"]]
        kinds = sorted({kind for times in by_model.values() for kind in times})
        amounts = np.array([[by_model[r["model"]].get(k, 0.0) for k in kinds] for r in own])
        keep = np.isfinite(amounts).all(1)
        amounts, own = amounts[keep], [r for r, k in zip(own, keep, strict=True) if k]
        given = {"ours": programs({"sum": amounts.sum(1, keepdims=True), "kinds": amounts})}
        groups = tuple(family(r["model"]) for r in own)
        work, total = column(own, "FLOPS"), amounts.sum(1, keepdims=True)
        plain = np.concatenate([np.log(total), np.log(work)[:, None]], 1)
        times = column(own, f"{phone}|gpu|float|mean")
        tables = {"sum a + c": total}
        yield Task("CNNs by operators", f"{phone} gpu", times, given, plain, work, tables, None, groups)


def chipsets(path: Path) -> Iterator[Task]:
    """Yield models on one chipset, of which all that is known are the times on three others."""
    known = ("Samsung Galaxy S24", "Samsung Galaxy S25", "QCS8550 (Proxy)")
    by_key: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for r in read(path):
        if r["inference_ms"]:
            key = (r["model"], r["component"], r["precision"], r["runtime"])
            by_key[key][r["device"]] = float(r["inference_ms"])
    for device in ("Snapdragon X Elite CRD", "SA8295P ADP", "Dragonwing IQ-9075 EVK", "QCS8275 (Proxy)"):
        rows = [(k, t) for k, t in by_key.items() if device in t and all(d in t for d in known)]
        elsewhere = np.array([[t[d] for d in known] for _, t in rows])
        times = np.array([t[device] for _, t in rows])
        given = {"ours": programs({}, None, elsewhere)}
        groups = tuple(k[0] for k, _ in rows)
        yield Task(
            "chipsets", device, times, given, np.log(elsewhere), elsewhere[:, 0], {}, elsewhere, groups
        )
