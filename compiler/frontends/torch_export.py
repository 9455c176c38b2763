"""torch.export -> Graph.

The program is taken after `run_decompositions({})`: functional, yet with conv2d, linear,
layer_norm, attention and activations whole. On the way in, operands get their schema names,
BatchNorm one output, views become reshapes, `getitem` becomes an output index, shape arithmetic
becomes symbolic dimensions, tied weights become one constant and buffer mutation a write effect.
BatchNorm without running statistics is a function of its input, as in weight standardisation
(Brock et al., 2021, "Characterizing signal propagation"), and is written in parts.

Refused, with the node and its source line: training mode, random numbers, mutated inputs, control
flow or shapes that depend on data, custom objects.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from compiler.errors import UnsupportedModelError
from compiler.frontends.blame import blame, source_line
from compiler.frontends.symbols import Symbols
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Kind, Node, Operand, Signature, TensorType, Value
from compiler.ir.schema import draws, freeze, normalize, op_name
from compiler.ir.verify import verify

_DROPPED = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"}
_TRAINING = {"_native_batch_norm_legit_functional", "_native_batch_norm_legit", "native_dropout"}
_DATA_DEPENDENT = {"_local_scalar_dense", "item", "nonzero", "masked_select"}


def import_model(
    model: torch.nn.Module | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Graph:
    """Export a module or a callable on example inputs and import the result.

    Raises UnsupportedModelError (exit 3) naming the user's source line where there is one.
    """
    module = model if isinstance(model, torch.nn.Module) else _Callable(model)
    training = next((path for path, m in module.named_modules() if m.training and m is not module), None)
    if isinstance(model, torch.nn.Module) and module.training:
        where = f" (as is {training!r})" if training else ""
        raise UnsupportedModelError(f"the model is in training mode{where}: call .eval() before compiling it")
    if isinstance(model, torch.nn.Module) and training is not None:
        raise UnsupportedModelError(
            f"module {training!r} is in training mode: call .eval() on the whole model"
        )
    module = module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes)
    except UnsupportedModelError:  # a module of ours says it best
        raise
    except Exception as error:  # torch.export raises anything the user's forward raises
        raise UnsupportedModelError(blame(error)) from error
    return import_program(program)


class _Callable(torch.nn.Module):
    """A function as a module, so that it can be exported."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


def import_program(program: ExportedProgram, draws: bool = False) -> Graph:
    """Import an exported program, decomposed or not; raises UnsupportedModelError.

    With `draws`, operations that draw random numbers are let in: nothing compiles them, but they can be
    taken away (`compiler.frontends.stochastic`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program.run_decompositions(
            {torch.ops.aten._native_batch_norm_legit.no_stats: _batch_norm_without_statistics}
        )
    graph = _Import(program, draws).run()
    verify(graph)
    return graph


def _batch_norm_without_statistics(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x normalised over all axes but the second, as (result, means, inverse deviations)."""
    axes = [0, *range(2, x.dim())]
    mean = x.mean(axes, keepdim=True)
    inverse = ((x - mean).square().mean(axes, keepdim=True) + eps).rsqrt()
    result = (x - mean) * inverse
    channels = (-1, *(1 for _ in x.shape[2:]))
    if weight is not None:
        result = result * weight.reshape(channels)
    if bias is not None:
        result = result + bias.reshape(channels)
    return result, mean.flatten(), inverse.flatten()


class _Import:
    """One walk over an exported program; lives only inside `import_program`."""

    def __init__(self, program: ExportedProgram, draws: bool = False) -> None:
        self.program = program
        self.draws = draws
        self.editor = Editor()
        self.symbols = Symbols(program)
        self.values: dict[str, Operand] = {}  # FX name -> operand; multi-output ops stand as tuples
        self.stored: dict[tuple[Any, ...], Value] = {}

    def run(self) -> Graph:
        signature = self.program.graph_signature
        kinds = {s.arg.name: s for s in signature.input_specs}
        mutated = {s.target for s in signature.output_specs if s.kind is OutputKind.BUFFER_MUTATION}
        leaves: list[tuple[str, Operand]] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds[node.name], mutated, leaves)
            elif node.op == "call_function":
                self.values[node.name] = self._call(node)
            elif node.op == "get_attr":  # the branches of a control-flow operator
                reader = next(iter(node.users))
                raise UnsupportedModelError(
                    f"control flow by {reader.target} is not supported: {_where(reader)}"
                )
        self._outputs()
        graph = self.editor.finish()
        graph.symbols = self.symbols.ranges()
        spec = self.program.call_spec
        graph.signature = Signature(_spec(spec.in_spec), _result_spec(spec.out_spec), tuple(leaves))
        return graph

    def _placeholder(
        self, node: Any, spec: Any, mutated: set[str], leaves: list[tuple[str, Operand]]
    ) -> None:
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(spec.arg, TensorArgument):
                value = self.editor.input(node.name, self._type(node.meta["val"], node))
                self.values[node.name] = value
                leaves.append(("input", value.node))
            elif isinstance(spec.arg, ConstantArgument):
                leaves.append(("literal", freeze(spec.arg.value)))
            else:
                raise UnsupportedModelError(f"input {node.name!r} is not a tensor: {spec.arg}")
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            if node.users:
                self.values[node.name] = self._stored(spec, mutated)
        else:
            raise UnsupportedModelError(
                f"input {node.name!r} is a {spec.kind.name}, which no runtime here can hold"
            )

    def _stored(self, spec: Any, mutated: set[str]) -> Value:
        program = self.program
        tensor = program.state_dict.get(spec.target)
        if tensor is None:
            tensor = program.constants[spec.target]
        tensor = tensor.detach()
        hint = spec.target.replace(".", "_")
        if spec.target in mutated:
            return self.editor.state(tensor.clone(), hint, spec.target)
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.numel() and None)
        if tensor.numel() == 0 or key not in self.stored:
            self.stored[key] = self.editor.constant(tensor, hint, spec.target)
        return self.stored[key]

    def _call(self, node: Any) -> Operand:
        if node.target is operator.getitem:
            source = self.values[node.args[0].name]
            return source[node.args[1]] if isinstance(source, tuple) else Value(source.node, node.args[1])
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int) or value is None:
            return self._scalar(node, value)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UnsupportedModelError(f"{node.target} is not supported: {_where(node)}")
        name = node.target._opname
        self._refuse(node, name)
        if name == "_native_batch_norm_legit_no_training":
            return self._batch_norm(node)
        if name in ("view", "_unsafe_view") and node.target._overloadname != "dtype":
            return self._emit(
                node, "aten.reshape.default", (self._operand(node.args[0]), self._shape(node)), {}
            )
        args = tuple(self._operand(a) for a in node.args)
        return self._emit(
            node, op_name(node.target), args, {k: self._operand(v) for k, v in node.kwargs.items()}
        )

    def _scalar(self, node: Any, value: Any) -> Operand:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._opname in _DROPPED:
            return None
        if value is None or isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedModelError(f"{node.target} is not supported: {_where(node)}")
        return self.symbols.dim(value, lambda: _where(node))

    def _refuse(self, node: Any, name: str) -> None:
        if name in _TRAINING:
            raise UnsupportedModelError(
                f"{name} runs in training mode: call .eval() before exporting the model: {_where(node)}"
            )
        op = op_name(node.target)
        call = Node(name, Kind.OP, op, normalize(op, node.args, node.kwargs))
        if not self.draws and draws(call):
            raise UnsupportedModelError(f"{name} draws random numbers in eval: {_where(node)}")
        if name in _DATA_DEPENDENT:
            raise UnsupportedModelError(f"the result of {name} depends on data: {_where(node)}")

    def _batch_norm(self, node: Any) -> Operand:
        if any(user.args[1] != 0 for user in node.users):
            raise UnsupportedModelError(f"the batch statistics of BatchNorm are read in eval: {_where(node)}")
        x, weight, bias, mean, variance, momentum, eps = (self._operand(a) for a in node.args)
        args = (x, weight, bias, mean, variance, False, momentum, eps, False)
        types = (self._type(node.meta["val"][0], node),)
        return (self._emit(node, "aten.batch_norm.default", args, {}, types, "batch_norm"),)

    def _emit(
        self,
        node: Any,
        op: str,
        args: tuple[Operand, ...],
        kwargs: Mapping[str, Operand],
        types: tuple[TensorType, ...] | None = None,
        hint: str = "",
    ) -> Value:
        types = types or self._types(node)
        return self.editor.op(
            op, dict(normalize(op, args, kwargs)), types, hint or node.name, _module(node), source_line(node)
        )

    def _types(self, node: Any) -> tuple[TensorType, ...]:
        value = node.meta["val"]
        parts = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(v, tuple | list) for v in parts):
            raise UnsupportedModelError(
                f"{node.target} returns a list of tensors inside a tuple: {_where(node)}"
            )
        # An output that is not a tensor (the seed of a fused attention, say) can be made, not read.
        return tuple(
            self._type(v, node) if isinstance(v, torch.Tensor) else TensorType((), torch.int64) for v in parts
        )

    def _type(self, value: torch.Tensor, node: Any) -> TensorType:
        return TensorType(tuple(self.symbols.dim(d, lambda: _where(node)) for d in value.shape), value.dtype)

    def _shape(self, node: Any) -> Operand:
        return self._type(node.meta["val"], node).shape

    def _operand(self, argument: Any) -> Operand:
        if isinstance(argument, torch.fx.Node):
            return self.values[argument.name]
        if isinstance(argument, list | tuple):
            return tuple(self._operand(a) for a in argument)
        if isinstance(argument, torch.SymInt):
            return self.symbols.dim(argument, lambda: "an operand")
        return argument

    def _outputs(self) -> None:
        output = next(n for n in reversed(self.program.graph.nodes) if n.op == "output")
        results: list[Operand] = []
        for spec, argument in zip(self.program.graph_signature.output_specs, output.args[0], strict=True):
            if spec.kind is OutputKind.USER_INPUT_MUTATION:
                raise UnsupportedModelError(f"the model writes its input {spec.target!r}: {_where(argument)}")
            if spec.kind is OutputKind.BUFFER_MUTATION:
                state = next(
                    n
                    for n in self.editor.graph.nodes()
                    if n.kind.value == "state" and n.origin == spec.target
                )
                self.editor.write(state.value, self._operand(argument))
            elif spec.kind is OutputKind.USER_OUTPUT:
                results.append(self._operand(argument))
            else:
                raise UnsupportedModelError(f"an output of kind {spec.kind.name} is not supported")
        self.editor.output(results)


def _module(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    return str(paths[-1]) if paths and not str(paths[-1]).startswith("_empty") else ""


def _where(node: Any) -> str:
    return (
        f"node {node.name!r} in module {_module(node) or '(root)'!r}, {source_line(node) or 'source unknown'}"
    )


def _spec(spec: Any) -> str:
    return "" if spec is None else pytree.treespec_dumps(spec)


def _result_spec(spec: Any) -> str:
    """Return the result's structure; none where it is a type without a name, which comes back flat."""
    try:
        return _spec(spec)
    except NotImplementedError:  # torch.return_types, of functions that return several tensors
        return ""
