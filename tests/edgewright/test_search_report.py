"""The report of a search: what it says, and that a browser shows all of it, readable, without a network."""

import io
import json
import math
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from torch import nn

from compiler.compress.segments import segments
from compiler.cost.kernel import kernel_of
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.records import Artifact, Metric
from compiler.search.budget import parse_budget
from compiler.search.experiments import Experiments
from compiler.search.loop import Reading, search_loop
from compiler.search.output_cost import CostEstimate, CostKind
from compiler.search.space import Site, Space
from edgewright.models import load_model
from edgewright.search_output import Row, SearchResult
from edgewright.search_report import page, report_data, write_report
from edgewright.search_report.data import Interval
from edgewright.search_report.numbers import large, number, signed
from edgewright.search_report.page import verdict
from edgewright.search_report.scales import linear, log
from edgewright.stages import prepare
from tests.edgewright.browser import browser, screenshot, shown
from tests.edgewright.made_up_report import HOSTILE, made_up

SECTIONS = ["pareto", "plan", "predicted", "gap", "waterline", "sensitivity"]
WIDTHS = (1280, 400)
BASE_NS, GAIN, SURPRISE = 5_000_000, 0.11, 0.02


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


@cache
def graph():
    torch.manual_seed(0)
    return prepare(load_model(Net().eval(), torch.randn(1, 3, 8, 8))).graph


def reading(choice):
    """Each site gains the same; where several change, the device is a little slower than their sum."""
    ratio = 1 - GAIN * sum(choice) + SURPRISE * (sum(choice) == 2)
    own = ratio * BASE_NS
    return Reading(ratio, 0.99 * ratio, 1.01 * ratio, own, 0.99 * own, 1.01 * own, BASE_NS)


def cost(choice):
    mean = sum((i + 1) * 1e-4 for i, option in enumerate(choice) if option)
    return CostEstimate(mean, 0.1 * mean, 0.8 * mean, 1.2 * mean, 32)


def result(tmp_path, budget="0.85x"):
    """A search with the real loop, on a real graph, where latencies and costs are known."""
    space = Space(tuple(Site(s.site, "precision", ("float32", "int8")) for s in segments(graph())))
    lab = Experiments(lambda cs: {c: reading(c) for c in cs}, cost)
    outcome = search_loop(space, parse_budget(budget), lab)
    rows = [Row("".join(map(str, t.choice)), t, 1_000_000) for t in outcome.trials]
    return SearchResult(
        folder=tmp_path,
        artifact=Artifact(tmp_path / "artifact", {}),
        plan=space.plan(outcome.winner.choice),
        model="net.py:net",
        budget=parse_budget(budget),
        space=space,
        outcome=outcome,
        rows=tuple(rows),
        kind=CostKind.KL,
        unseen=cost(outcome.winner.choice) if any(outcome.winner.choice) else None,
        digests={"device": "a board 0123456789abcdef", "target": '{"target": "executorch"}'},
    )


class Reader(HTMLParser):
    """What stands in a page without running anything of it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.captions, self.links, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "h2":
            self.headings.append(values["id"])
        self.links += [v for k, v in values.items() if k in ("href", "src", "action", "data") and v]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


def data_of(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The made-up report in a browser, at the widths of a screen and of a phone."""
    if browser() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    unfolded = page(made_up()).replace("<details>", "<details open>")
    return shown(unfolded, WIDTHS, tmp_path_factory.mktemp("browser"))


def test_a_page_holds_all_sections_and_needs_no_script_and_no_network():
    text = page(made_up())
    reader = Reader(text)
    assert reader.headings == SECTIONS
    assert reader.tags.count("svg") == 2 * 5  # each picture for screens and for phones
    assert reader.tags.count("table") == 6
    assert all(link.startswith("#") for link in reader.links)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_what_comes_from_a_model_is_text_and_not_markup():
    text = page(made_up())
    assert HOSTILE not in text
    assert Reader(text).tags.count("script") == 2
    assert data_of(text)["model"] == HOSTILE


def test_the_browser_shows_every_section_without_a_word_on_the_console(seen):
    pages, console = seen
    assert console == []
    assert sorted(pages) == sorted(WIDTHS)
    for width in WIDTHS:
        texts = " ".join(b.text for b in pages[width].boxes)
        assert pages[width].pictures == 5
        assert pages[width].height > 2000
        for heading in (
            "Cost against latency",
            "Plan by module",
            "Efficiency gap",
            "Waterline",
            "Sensitivity",
        ):
            assert heading in texts


@pytest.mark.parametrize("width", WIDTHS)
def test_no_two_texts_overlap_and_none_leaves_its_picture(seen, width):
    page = seen[0][width]
    assert page.overlapping() == []
    assert [b.text for b in page.boxes if not b.inside] == []
    assert page.content <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_budget_and_the_winner_are_named_in_the_picture(seen, width):
    drawn = [b.text for b in seen[0][width].boxes if b.picture in (0, 1)]
    assert "budget 0.7x" in drawn
    assert made_up().winner.name in drawn


def test_the_picture_of_the_page_is_not_blank_and_dark_where_asked_for(tmp_path):
    if browser() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    light, dark = (grey(screenshot(page(made_up()), tmp_path, dark=d)) for d in (False, True))
    assert light.size == dark.size == (1280, 1600)
    for picture, paper in ((light, 255), (dark, 23)):
        histogram = picture.histogram()
        share = histogram[paper] / sum(histogram)
        assert 0.5 < share < 0.97
        assert sum(count > 0 for count in histogram) > 50


def grey(png):
    return Image.open(io.BytesIO(png)).convert("L")


def test_a_real_search_is_told_as_it_was(tmp_path):
    found = result(tmp_path)
    data = report_data(found, lambda _: graph())
    winner = found.outcome.winner
    assert data.unit == "× merged float model"
    assert data.device == "a board"
    assert data.target == "executorch"
    assert data.winner.latency == Interval(
        winner.reading.ratio, winner.reading.ratio_low, winner.reading.ratio_high
    )
    assert data.upper == winner.reading.ratio_high <= data.limit == 0.85
    assert len(data.variants) == len(found.outcome.trials)
    assert [d.cost.value for d in data.departures] == sorted(
        (d.cost.value for d in data.departures), reverse=True
    )
    assert len(data.departures) == len(found.space.sites)
    assert {r.site for r in data.plan if r.option == "int8"} == {
        d.site for d in found.plan.decisions if d.option == "int8"
    }
    json.dumps(data_of(page(data)), allow_nan=False)


def test_a_decision_changes_the_latency_by_what_it_does_within_the_plan(tmp_path):
    found = result(tmp_path)
    model, chosen = found.outcome.model, found.outcome.winner.choice
    data = report_data(found, lambda _: graph())
    taken = [row for row in data.plan if row.option]
    assert len(taken) == sum(chosen) >= 2
    for row in taken:
        index = [s.name for s in found.space.sites].index(row.site)
        kept = tuple(0 if i == index else o for i, o in enumerate(chosen))
        assert row.change == pytest.approx(model.predict(chosen) - model.predict(kept))
        assert row.change < 0


def test_the_front_is_what_nothing_beats(tmp_path):
    data = report_data(result(tmp_path), lambda _: graph())
    for v in data.variants:
        beaten = any(
            w.latency.value < v.latency.value and w.cost.value <= v.cost.value
            for w in data.variants
            if w is not v
        )
        assert not (v.front and beaten)
        assert v.front or beaten or any(w.front and w.latency == v.latency for w in data.variants)


def test_without_measured_kernels_the_best_variant_lies_on_the_prior(tmp_path):
    data = report_data(result(tmp_path), lambda _: graph())
    assert max(v.efficiency for v in data.variants) == pytest.approx(1)
    assert "prior" in data.machine
    assert all(k.measured is None for k in data.kernels)


def test_with_measured_kernels_the_roofline_is_theirs_and_bounds_them(tmp_path):
    entries = {kernel_of(graph(), n).text: Entry(t, 0.9 * t, 1.1 * t) for n, t in timed(graph())}
    table = LatencyTable("a board", "executorch", 1, Metric.WALL, entries)
    data = report_data(result(tmp_path), lambda _: graph(), table)
    assert f"{len(entries)} kernels" in data.machine
    known = [k for k in data.kernels if k.measured is not None]
    assert known
    for k in known:
        assert k.attainable <= 1.1 * k.measured * (1 + 1e-9)


def timed(graph):
    ops = [n for n in graph.ops() if "reshape" not in n.op]
    return [(n, 1000.0 + 70 * i) for i, n in enumerate(ops)]


@pytest.mark.parametrize(("budget", "unit"), [("4.2ms", "ms"), ("0.85x", "× merged float model")])
def test_latencies_are_in_the_unit_of_the_budget(tmp_path, budget, unit):
    found = result(tmp_path, budget)
    data = report_data(found, lambda _: graph())
    median = found.outcome.winner.reading.median_ns / 1e6
    assert data.unit == unit
    assert data.limit == pytest.approx(float(budget.rstrip("msx")))
    assert data.winner.latency.value == pytest.approx(median if unit == "ms" else median * 1e6 / BASE_NS)
    assert data.winner.predicted == pytest.approx(data.winner.latency.value, rel=0.2)


def test_a_budget_the_float_model_meets_is_told_in_every_section(tmp_path):
    text = write_report(result(tmp_path, "1.5x"), lambda _: graph()).read_text()
    assert Reader(text).headings == SECTIONS
    assert "costs nothing" in text
    assert "Nothing had to be predicted" in text


def test_a_report_that_cannot_be_made_leaves_the_earlier_one(tmp_path):
    path = write_report(result(tmp_path), lambda _: graph())
    before = path.read_text()

    def fails(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(result(tmp_path, "0.7x"), fails)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["search.html"]


def test_the_verdict_is_one_sentence_with_its_figures():
    text = verdict(made_up(model="m"))
    assert text.count(". ") == 0
    for part in ("0.677x", "0.7x", "emulated board", "1.12×10⁻⁴", "1.08×10⁻⁴", "64 samples"):
        assert part in text


def test_one_variant_and_equal_values_still_have_axes():
    only = replace(
        made_up().winner, cost=Interval(0, 0, 0), latency=Interval(1, 1, 1), predicted=None, ideal=1.0
    )
    data = made_up(variants=(only,), plan=(), departures=(), kernels=(), advice=(), unseen=None, limit=1.0)
    assert "NaN" not in page(data).replace("aNaN", "")
    assert Reader(page(data)).headings == SECTIONS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (123456.0, "1.23×10⁵"),
        (0.0000112, "1.12×10⁻⁵"),
        (1e-5, "10⁻⁵"),
        (1234.0, "1234"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_changes_carry_a_sign_and_counts_a_prefix():
    assert (signed(-0.25), signed(0.25), signed(0.0)) == ("−0.25", "+0.25", "0")
    assert (large(12_300_000.0), large(999.0)) == ("12.3 M", "999")


@pytest.mark.parametrize("values", [(0.3, 0.9), (1e-7, 3e2), (5.0, 5.0), (2.0, 2.1)])
def test_axes_hold_their_values_and_name_round_ones_within(values):
    for scale in (linear(values, 10, 500), log(values, 500, 10, zero=True)):
        places = [scale.at(v) for v in values]
        assert all(10 <= p <= 500 for p in places)
        assert len(scale.ticks(6)) <= 14
        assert all(10 <= scale.at(t) <= 500 + 1e-9 for t in scale.ticks(6))
        assert all(math.isfinite(p) for p in places)
