"""Which nodes each call of TVM's kernels computes, as both its runners name the calls."""

import json

import torch
from torch import nn

from targets.serving import IO
from targets.tvm.importing import Imported
from targets.tvm.origins import nodes_behind
from tests.targets.static.programs import TARGET


class Twins(nn.Module):
    """Two equal layers, which are one kernel called twice, and one of another size between them."""

    def __init__(self):
        super().__init__()
        self.first, self.other, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

    def forward(self, x):
        return self.second(self.other(self.first(x).relu()).softmax(-1)).relu().sum(1)


def told(lowered):
    """Each call's name in order of execution, with the modules of the nodes that it computes."""
    (_, answer), _ = lowered.talk({"do": "profile", "iterations": 2})
    origins = json.loads((lowered.folder / IO).read_text())["origins"]
    modules = {node.name: node.origin for node in lowered.graph.ops()}
    assert all(len(row["ns"]) == 2 for row in answer["operations"])
    return [(row["name"], [modules[node] for node in origins[row["name"]]]) for row in answer["operations"]]


def check_twins(lowered):
    rows = told(lowered)
    kernel = next(name for name, nodes in rows if nodes and nodes[0] == "first")
    assert ("#" not in kernel) and (f"{kernel}#2", "second") in [(n, m[0]) for n, m in rows if m]
    heads = [nodes[0] for _, nodes in rows if nodes and nodes[0]]
    assert heads == ["first", "other", "second"]
    assert all(nodes for _, nodes in rows)


def test_equal_layers_are_told_apart_in_a_library(lower, imports):
    lowered = lower(TARGET, imports(Twins(), torch.randn(2, 8)))
    assert lowered.report["route"] == "vm"
    check_twins(lowered)


def test_equal_layers_are_told_apart_in_a_static_executable(build):
    lowered = build("twins", Twins(), (torch.randn(2, 8),))
    assert lowered.report["route"] == "static"
    check_twins(lowered)


class Norm(nn.Module):
    """A layer that is written out in other operations before TVM reads it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 1), nn.GroupNorm(2, 8)

    def forward(self, x):
        return self.norm(self.conv(x))


def test_a_node_that_is_written_out_is_told_by_its_own_name(lower, imports):
    rows = told(lower(TARGET, imports(Norm(), torch.randn(1, 4, 6, 6))))
    assert {module for _, modules in rows for module in modules} == {"conv", "norm"}
    assert all(modules for _, modules in rows)


class Scaled(nn.Module):
    def forward(self, x):
        return x.mul(3).sum(1)


def test_a_fused_kernel_tells_its_heaviest_node_first(lower, imports):
    graph = imports(Scaled(), torch.randn(2, 4, 6))
    lowered = lower(TARGET, graph)
    (found,) = json.loads((lowered.folder / IO).read_text())["origins"].values()
    assert [graph.node(name).op.split(".")[1] for name in found] == ["sum", "mul"]


def test_what_an_operation_is_written_out_in_is_of_the_variable_that_follows():
    made = [("ir0x", [1]), ("lv", [2]), ("ir1x", [3]), ("lv1", [4]), ("ir2x3", [5]), ("gv", [])]
    nodes = nodes_behind(Imported(None, ("a", "b", "")), made)
    assert nodes == {1: "a", 2: "b", 3: "b", 4: "", 5: ""}


def test_what_comes_by_way_of_onnx_tells_no_nodes_and_no_wrong_ones(lower, imports):
    class Histogram(nn.Module):
        def forward(self, x):
            return torch.histc(x, 4, 0, 2) + 1

    lowered = lower(TARGET, imports(Histogram(), torch.rand(8)))
    origins = json.loads((lowered.folder / IO).read_text())["origins"]
    assert lowered.report["importer"] == "onnx" and origins and not any(origins.values())
