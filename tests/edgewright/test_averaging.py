"""`edgewright average`: what it writes, what it refuses, and that it never does either by halves."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.errors import UnsupportedModelError, UsageError
from edgewright.artifact import read_artifact
from edgewright.averaging import accuracy, average
from tests.edgewright.soups import Net, ingredient
from tests.models.experts import Partitioned, by_index, spread
from tests.models.small import randomize


def _images(count=3, size=8, seed=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, generator=generator) * 2 + 0.3 for _ in range(count)]


@dataclass(frozen=True)
class Ingredients:
    nets: list
    paths: list
    folder: Path


@pytest.fixture
def soup(tmp_path):
    nets = [ingredient(seed) for seed in (1, 2, 3)]
    paths = [tmp_path / f"{i}.pt" for i in range(3)]
    for net, path in zip(nets, paths, strict=True):
        torch.save(net.state_dict(), path)
    return Ingredients(nets, paths, tmp_path)


def _average(soup, **options):
    arguments = {
        "batches": _images(),
        "inputs": (torch.randn(1, 3, 8, 8),),
        "out": soup.folder / "out",
    } | options
    return average(ingredient(0), soup.paths, **arguments)


def test_a_uniform_soup_is_written_with_its_statistics_and_deviations(soup):
    made = _average(soup)
    state = torch.load(made.folder / "state_dict.pt", weights_only=True)
    mean = torch.stack([net.conv.weight.double() for net in soup.nets]).mean(0)
    assert torch.equal(state["conv.weight"], mean.float())
    assert state["head.weight"].data_ptr() == state["again.weight"].data_ptr()
    assert state["norm.num_batches_tracked"] == 3
    found = Net()
    found.load_state_dict(state)
    with torch.no_grad():
        seen = [found.conv(x[:, found.places]).mean((0, 2, 3)) for x in _images()]
    torch.testing.assert_close(state["norm.running_mean"], torch.stack(seen).mean(0))
    report = json.loads((made.folder / "average.json").read_text())
    assert report == made.report
    assert report["batch_norm"] == {"layers": ["norm"], "batches": 3, "samples": 24}
    assert "3 batches" in report["warnings"][0]
    for entry, net in zip(report["deviation"], soup.nets, strict=True):
        x = torch.cat(_images())
        with torch.no_grad():
            own, other = net(x).double(), found.eval()(x).double()
        (output,) = entry["outputs"]
        assert output["relative_rms"] == pytest.approx(float((other - own).norm() / own.norm()), rel=1e-5)
        kl = torch.nn.functional.kl_div(
            other.log_softmax(1), own.log_softmax(1), log_target=True, reduction="batchmean"
        )
        assert entry["kl_nats"] == pytest.approx(float(kl), rel=1e-5)


def test_the_program_computes_the_soup(soup):
    made = _average(soup)
    found = Net()
    found.load_state_dict(torch.load(made.folder / "state_dict.pt", weights_only=True))
    program = torch.export.load(made.program).module()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(program(x), found.eval()(x), rtol=1e-5, atol=1e-6)


def test_the_users_own_module_is_not_touched(soup):
    model = ingredient(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    average(model, soup.nets, batches=_images(), inputs=(torch.randn(1, 3, 8, 8),), out=soup.folder / "out")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def _near(net):
    """A score that likes the first net's weights."""
    return lambda module: -float((module.conv.weight - net.conv.weight).norm())


def test_a_greedy_soup_reports_what_it_kept_in_order(soup):
    made = _average(soup, method="greedy", score=_near(soup.nets[1]))
    names = [entry["name"] for entry in made.report["ingredients"]]
    assert names[0] == str(soup.paths[1])
    assert [entry["kept"] for entry in made.report["ingredients"]] == [True, False, False]
    assert made.report["score"] == made.report["ingredients"][0]["score"] == 0
    assert any("the soup is that one alone" in text for text in made.report["warnings"])


def test_a_soup_of_one_keeps_the_statistics_it_came_with(soup):
    made = _average(soup, method="greedy", score=_near(soup.nets[1]))
    state = torch.load(made.folder / "state_dict.pt", weights_only=True)
    assert all(torch.equal(value, soup.nets[1].state_dict()[key]) for key, value in state.items())
    assert made.report["batch_norm"]["layers"] == []


def test_soups_are_scored_behind_their_own_statistics_and_ingredients_behind_theirs(soup):
    seen = []

    def score(module):
        seen.append(module.norm.running_mean.clone())
        assert not module.training
        return float(len(seen))

    made = _average(soup, method="greedy", score=score)
    assert [t["kept"] for t in made.report["ingredients"]] == [True, True, True]
    for mean, net in zip(seen[:3], soup.nets, strict=True):
        assert torch.equal(mean, net.norm.running_mean)
    state = torch.load(made.folder / "state_dict.pt", weights_only=True)
    torch.testing.assert_close(seen[-1], state["norm.running_mean"])


def test_a_soup_below_its_best_ingredient_says_so(soup):
    made = _average(soup, score=_near(soup.nets[0]))
    assert made.report["score"] < 0
    assert any("its best ingredient alone" in text for text in made.report["warnings"])


def test_labels_score_by_accuracy(soup):
    generator = torch.Generator().manual_seed(1)
    labels = [torch.randint(6, (8,), generator=generator) for _ in range(3)]
    made = _average(soup, method="greedy", labels=labels)
    x, wanted = torch.cat(_images()), torch.cat(labels)
    found = {entry["name"]: entry["score"] for entry in made.report["ingredients"]}
    for path, net in zip(soup.paths, soup.nets, strict=True):
        with torch.no_grad():
            assert found[str(path)] == pytest.approx(float((net(x).argmax(1) == wanted).double().mean()))


def test_accuracy_is_the_share_of_hits_over_all_batches():
    batches = [(torch.eye(3),), (torch.eye(3)[:1],)]
    assert accuracy(batches, [torch.tensor([0, 1, 0]), torch.tensor([0])])(nn.Identity()) == 0.75


def test_experts_become_one_and_the_draw_is_gone(tmp_path):
    model = nn.Sequential(Partitioned(by_index, *spread(2, 0.05)), nn.Linear(6, 4))
    rows = [torch.randn(9, 6) for _ in range(2)]
    made = average(model.eval(), (), "experts", rows, inputs=(rows[0],), out=tmp_path / "out")
    (group,) = made.report["experts"]
    assert (group["site"], group["experts"]) == ("0", 2)
    (deviation,) = made.report["deviation"]
    assert 1e-4 < deviation["outputs"][0]["relative_rms"] < 0.1
    assert deviation["kl_nats"] > 0
    assert deviation["draws"] == 8
    assert made.report["warnings"] == []
    program = torch.export.load(made.program).module()
    assert torch.equal(program(rows[1]), program(rows[1]))


def test_experts_far_apart_are_warned_of(tmp_path):
    model = Partitioned(by_index, *spread(2, 1.0)).eval()
    rows = torch.randn(9, 6)
    made = average(model, (), "experts", [rows], inputs=(rows,), out=tmp_path / "out")
    assert "training has not pulled them together" in made.report["warnings"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "median"}, "accepted: uniform, greedy, experts"),
        ({"method": "greedy"}, "held-out score"),
        ({"method": "experts"}, "takes no checkpoints"),
        ({"batches": ()}, "measured on batches"),
        ({"batches": [torch.randn(4, 2, 8, 8)]}, "does not run on batch 1"),
        ({"labels": [torch.zeros(8)]}, "as many labels"),
        ({"method": "greedy", "score": lambda m: "good"}, "not a number"),
        ({"batches": [torch.randn(1, 3, 3, 3)]}, "one value a channel"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_cannot_be_averaged_leaves_nothing(soup, options, words):
    with pytest.raises(UsageError, match=words):
        _average(soup, **options)
    assert sorted(p.name for p in soup.folder.iterdir()) == ["0.pt", "1.pt", "2.pt"]


def test_an_exported_program_has_no_statistics_to_gather(soup):
    program = torch.export.export(ingredient(0), (torch.randn(1, 3, 8, 8),))
    with pytest.raises(UsageError, match="a soup needs the module"):
        average(
            program, soup.paths, batches=_images(), inputs=(torch.randn(1, 3, 8, 8),), out=soup.folder / "out"
        )


def test_a_former_average_is_replaced_and_nothing_else(soup):
    _average(soup)
    made = _average(soup, score=_near(soup.nets[0]))
    assert json.loads((made.folder / "average.json").read_text())["score"] is not None
    with pytest.raises(UsageError, match="not of schema"):
        read_artifact(made.folder)
    other = soup.folder / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        _average(soup, out=other)


def test_a_failed_run_keeps_what_stood_there(soup):
    made = _average(soup)
    before = (made.folder / "average.json").read_bytes()

    def score(module):
        raise UsageError("the held-out data is gone")

    with pytest.raises(UsageError, match="held-out data is gone"):
        _average(soup, score=score)
    assert (made.folder / "average.json").read_bytes() == before
    assert len(list(soup.folder.iterdir())) == 4


def test_a_router_is_no_partition_to_average(tmp_path):
    def route(experts, x):
        order = torch.argsort(x.sum(1))
        return torch.cat([e(p) for e, p in zip(experts, x[order].chunk(2), strict=True)])[order.argsort()]

    rows = torch.randn(8, 6)
    with pytest.raises(UnsupportedModelError, match=r"argsort, which depends on the input.*node 'argsort'"):
        average(
            Partitioned(route, *spread(2, 0.1)).eval(),
            (),
            "experts",
            [rows],
            inputs=(rows,),
            out=tmp_path / "o",
        )
    assert list(tmp_path.iterdir()) == []


USER = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))


def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 3, 8, 8),)


def batches():
    return [torch.randn(4, 3, 8, 8) for _ in range(2)]


def score(module):
    return -module.conv.weight.norm()


def broken(module):
    return 1 / 0


number = 3
"""


@pytest.fixture
def user(tmp_path):
    (tmp_path / "m.py").write_text(USER)
    for index in range(2):
        torch.manual_seed(index)
        net = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)})
        torch.save(randomize(net, index).state_dict(), tmp_path / f"{index}.pt")
    return tmp_path


def _arguments(user, **options):
    given = {
        "--method": "greedy",
        "--batches": f"{user / 'm.py'}:batches",
        "--score": f"{user / 'm.py'}:score",
    }
    given |= {f"--{key}": value for key, value in options.items()}
    flags = [str(part) for pair in given.items() for part in pair]
    paths = [part for i in range(2) for part in ("--checkpoint", user / f"{i}.pt")]
    return ["average", f"{user / 'm.py'}:net", *flags, *paths, "-o", user / "out"]


def test_the_command_prints_its_report(cli, user):
    ended = cli(*_arguments(user), "--json")
    assert ended.code == 0, ended.stderr
    assert ended.document == json.loads((user / "out" / "average.json").read_text())
    assert ended.document["schema"] == "edgewright.average/1"
    ended = cli(*_arguments(user, method="uniform"))
    assert "uniform soup" in ended.stdout
    assert "deviation of the averaged model (lossy)" in ended.stdout
    assert f"edgewright compile {user / 'out'}/model.pt2" in ended.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": "m.py:number"}, "a score is a callable"),
        ({"score": "m.py"}, "names no attribute"),
        ({"score": "m.py:broken"}, "ZeroDivisionError at"),
        ({"method": "best"}, "no averaging method"),
    ],
)
def test_the_command_ends_with_2_and_leaves_nothing(cli, user, options, words, monkeypatch):
    monkeypatch.chdir(user)
    ended = cli(*_arguments(user, **options), "--json")
    assert ended.code == 2
    assert words in ended.document["message"]
    assert not (user / "out").exists()
