"""TVM's two importers; that of exported programs leaves on each binding the IR node that it is of.

A variable's name is what the passes up to fusing keep. It is made of a number and a letter, for the
builder appends digits to a name that it gave before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from targets.onnx_file import onnx_bytes

MARK = "ir{}x"
MARKED = re.compile(r"ir(\d+)x")


@dataclass(frozen=True)
class Imported:
    """A Relax module, and the IR nodes that the marks in its names number; none of an ONNX file's."""

    module: Any
    nodes: tuple[str, ...] = ()

    def node(self, variable: str) -> str | None:
        """Return the IR node that a variable's name marks, empty for one without; None without a mark."""
        found = MARKED.match(variable)
        return self.nodes[int(found[1])] if found else None


def from_program(program: ExportedProgram) -> Imported:
    """Return the Relax module of an exported program."""
    core = program.run_decompositions()
    nodes = list(dict.fromkeys(_node(n) for n in core.graph.nodes))
    return Imported(_importer(nodes).from_exported_program(core, False, False, False, None), tuple(nodes))


def _importer(nodes: list[str]) -> Any:
    """Return TVM's importer with a builder that names what a node's translation emits after the node."""
    from tvm import relax
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    class Naming(relax.BlockBuilder):  # type: ignore[misc]  # TVM is not typed
        mark = ""

        def emit(self, expr: Any, name_hint: str = "") -> Any:
            return super().emit(expr, name_hint or self.mark)

    class Importer(ExportedProgramImporter):  # type: ignore[misc]
        naming: Naming | None = None

        @property
        def block_builder(self) -> Naming | None:
            return self.naming

        @block_builder.setter
        def block_builder(self, made: Any) -> None:  # by the importer, for each program
            self.naming = None if made is None else Naming()

        def create_convert_map(self) -> dict[str, Callable[..., Any]]:
            return {name: self.marking(convert) for name, convert in super().create_convert_map().items()}

        def marking(self, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def marked(node: Any) -> Any:
                assert self.naming is not None
                self.naming.mark = MARK.format(nodes.index(_node(node)))
                return convert(node)

            return marked

    return Importer()


def _node(node: Any) -> str:
    return str((node.meta.get("custom") or {}).get("ir_node", ""))


def from_onnx_file(program: ExportedProgram) -> Imported:
    """Return the Relax module of the program's ONNX file."""
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    return Imported(from_onnx(onnx.load_from_string(onnx_bytes(program)), keep_params_in_input=False))


IMPORTERS: Mapping[str, Callable[[ExportedProgram], Imported]] = {
    "torch.export": from_program,
    "onnx": from_onnx_file,
}
