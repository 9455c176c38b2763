"""An ONNX graph as a torch module: a walk over its nodes that torch.export can trace.

Each node is a submodule named after it, so that the graph's origins are the ONNX nodes. Operators are
handlers over torch (`operators/`); those without one are written out by the body that the ONNX schema
gives them. What is known on the host, shapes and small constants, is computed there (`values`).
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compiler.errors import UnsupportedModelError, UsageError
from compiler.frontends.onnx import host
from compiler.frontends.onnx.dtypes import Array, array_of, narrow_range, onnx_code, tensor_of, torch_dtype
from compiler.frontends.onnx.registry import Operator, operators
from compiler.frontends.onnx.values import Slot, constant
from compiler.frontends.onnx.values import host as on_host

Environment = dict[str, Any]
_LIKE = {"CastLike": 1, "QuantizeLinear": 2}  # the input whose type the result has


def onnx_module(model: Any) -> OnnxModule:
    """Return the module of an `onnx.ModelProto`, its inputs named as in the graph, made identifiers."""
    made = OnnxModule(model)
    names = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in made.parameter_names]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([own, *names])

    def forward(self: OnnxModule, *args: Any, **kwargs: Any) -> Any:
        return self.walk(*signature.bind(self, *args, **kwargs).args[1:])

    forward.__signature__ = signature  # type: ignore[attr-defined]
    # A class of its own: torch.export and --freeze read the names of `forward`'s parameters.
    made.__class__ = type("OnnxModule", (OnnxModule,), {"forward": forward})
    return made


class OnnxModule(nn.Module):
    """Takes the graph's inputs in order, without those that have initialisers, and returns its outputs."""

    def __init__(self, model: Any) -> None:
        """Read the weights of an `onnx.ModelProto`."""
        super().__init__()
        self.opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
        self.register_buffer("floating", torch.zeros((), dtype=torch.float32), persistent=False)
        self.stored: dict[str, tuple[str, Array]] = {}
        for tensor in model.graph.initializer:
            self._store(tensor.name, _array_of(tensor))
        self.input_names = [i.name for i in model.graph.input if i.name not in self.stored]
        self.parameter_names = _unique(map(_identifier, self.input_names))
        self.assumed: dict[str, Array] = {}
        codes = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        self.narrow = {name: code for name, code in codes.items() if narrow_range(code)}
        self.body = Body(model.graph, self.opsets, whole=True)

    def assume(self, values: Mapping[str, torch.Tensor]) -> None:
        """Let the data of inputs be read while the graph is walked: they will never be other than `values`.

        Names are the graph's own or `forward`'s.
        """
        own = dict(zip(self.parameter_names, self.input_names, strict=True))
        self.assumed |= {own.get(name, name): array_of(value) for name, value in values.items()}

    def _store(self, name: str, array: Array) -> None:
        tensor = tensor_of(array)
        own = f"w_{_identifier(name)}"
        while own in self._buffers or own in self._parameters or hasattr(self, own):
            own += "_"
        if tensor.is_floating_point():
            self.register_parameter(own, nn.Parameter(tensor, requires_grad=False))
        else:
            self.register_buffer(own, tensor)
        self.stored[name] = own, array

    def walk(self, *inputs: Any) -> Any:
        """Return what the graph computes from its inputs."""
        if len(inputs) != len(self.input_names):
            raise TypeError(f"it takes {len(self.input_names)} inputs ({', '.join(self.input_names)})")
        floating: torch.Tensor = self.floating  # type: ignore[assignment]
        dtype = floating.dtype
        values: Environment = {
            name: constant(name, getattr(self, own), array) for name, (own, array) in self.stored.items()
        }
        for name, value in zip(self.input_names, inputs, strict=True):
            known = self.assumed.get(name)
            slot = _given(name, value) if known is None else constant(name, value, known)
            values[name] = replace(slot, code=self.narrow[name]) if name in self.narrow else slot
        results = self.body(values, dtype)
        found = tuple(_result(r, dtype) for r in results)
        return found[0] if len(found) == 1 else found


def _given(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Slot(name, value, inputs=frozenset([name]))
    if isinstance(value, list | tuple):
        return [_given(f"{name}[{i}]", v) for i, v in enumerate(value)]
    return value


def _result(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Slot):
        return value.as_tensor(dtype)
    return [_result(v, dtype) for v in value] if isinstance(value, list) else value


class Body(nn.Module):
    """The nodes of a graph, in order; `values` holds what is visible from outside."""

    def __init__(self, graph: Any, opsets: Mapping[str, int], whole: bool = False) -> None:
        """Make a step of each node. `graph` is an `onnx.GraphProto` or an `onnx.FunctionProto`.

        The `whole` graph's weights are its module's.
        """
        super().__init__()
        self.inputs = [i if isinstance(i, str) else i.name for i in graph.input]
        self.outputs = [o if isinstance(o, str) else o.name for o in graph.output]
        self.whole = whole
        local = () if whole else getattr(graph, "initializer", ())
        self.local = {t.name: _array_of(t) for t in local}
        self.steps: list[str] = []
        for index, proto in enumerate(graph.node):
            name = _identifier(proto.name or f"{proto.op_type}_{index}")
            while name in self._modules or hasattr(self, name):
                name += "_"
            self.add_module(name, Step(proto, opsets))
            self.steps.append(name)

    def forward(self, values: Environment, dtype: torch.dtype) -> list[Any]:
        """Return the outputs; `values` is written to."""
        values |= {name: on_host(name, array) for name, array in self.local.items()}
        for name in self.steps:
            self._modules[name](values, dtype)  # type: ignore[misc]
        missing = [name for name in self.outputs if name not in values]
        if missing and self.whole:
            raise UnsupportedModelError(f"nothing computes the graph's output {missing[0]!r}")
        return [values.get(name) for name in self.outputs]


class Step(nn.Module):
    """One node: attributes read, subgraphs as bodies."""

    def __init__(self, proto: Any, opsets: Mapping[str, int]) -> None:
        """Read a node of an `onnx.GraphProto`."""
        super().__init__()
        self.proto = proto
        self.op, self.domain = proto.op_type, "" if proto.domain == "ai.onnx" else proto.domain
        self.opsets = opsets
        self.attributes, self.bodies = _attributes(proto, opsets)
        for name, body in self.bodies.items():
            self.add_module(f"body_{name}", body)

    def forward(self, values: Environment, dtype: torch.dtype) -> None:
        """Put the node's outputs in `values`."""
        inputs = [values[name] if name else None for name in self.proto.input]
        call = Call(self, values, dtype)
        try:
            results = host.fold(call, inputs)
            if results is None:
                results = self._run(call, inputs)
        except UnsupportedModelError as error:
            if not getattr(error, "at", None):
                error.at = self.label  # type: ignore[attr-defined]
                error.args = (f"{self.label}: {error.args[0]}",)
            raise
        depends = frozenset().union(*(_inputs(i) for i in inputs))
        for name, result in zip(self.proto.output, results, strict=False):
            values[name] = _slot(name, result, depends, self._code(inputs, result))

    def _code(self, inputs: Sequence[Any], result: Any) -> int | None:
        """Return the element type of a result narrower than a byte: what is cast to, or what is moved."""
        if self.op == "Cast":
            return self.attributes["to"] if narrow_range(self.attributes["to"]) else None
        at = _LIKE.get(self.op, 0)
        source = inputs[at] if at < len(inputs) else None
        code = source.code if isinstance(source, Slot) else None
        held = isinstance(result, torch.Tensor) and code is not None and result.dtype == torch_dtype(code)
        return code if held else None

    def _run(self, call: Call, inputs: Sequence[Any]) -> Sequence[Any]:
        known = operators().get((self.domain, self.op))
        result = NotImplemented if known is None else known.run(call, *_arguments(call, known, inputs))
        if result is NotImplemented:
            result = call.expanded(inputs)
        return result if isinstance(result, tuple) else (result,)

    @property
    def label(self) -> str:
        """The node in an error."""
        return f"ONNX node {self.proto.name or self.proto.output[0]!r} ({self.op})"


class Call:
    """A node being run: what its handler may ask."""

    def __init__(self, step: Step, values: Environment, dtype: torch.dtype) -> None:
        """Keep the node, the values in sight, and the dtype that stands for float32."""
        self.step, self.values, self.floating = step, values, dtype
        self.version = step.opsets.get(step.domain, 1)
        self.outputs = sum(map(bool, step.proto.output))

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute: an int, a float, a string, a list of them, or an array."""
        return self.step.attributes.get(name, default)

    def dtype(self, code: int) -> torch.dtype:
        """Return torch's dtype of an ONNX element type, float32 as this run has it."""
        found = torch_dtype(code)
        return self.floating if found == torch.float32 else found

    def wants(self, index: int) -> bool:
        """Tell whether an output is read."""
        names = self.step.proto.output
        return index < len(names) and bool(names[index])

    def body(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        """Run a subgraph, which sees the values around it."""
        found: list[Any] = self.step.bodies[name]({**self.values, **values}, self.floating)
        return found

    def body_inputs(self, name: str) -> list[str]:
        """Return the names of a subgraph's inputs."""
        return self.step.bodies[name].inputs

    def tensor(self, slot: Any) -> Any:
        """Return a slot's tensor, a sequence as a list of tensors."""
        if isinstance(slot, list):
            return [self.tensor(s) for s in slot]
        return slot.as_tensor(self.floating) if isinstance(slot, Slot) else slot

    def expanded(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run the body that the schema gives an operator; raises UnsupportedModelError where it has none."""
        function = _function(self, inputs)
        if function is None:
            raise UnsupportedModelError("this operator has no counterpart in torch here")
        opsets = {**self.step.opsets, **{o.domain: o.version for o in function.opset_import}}
        body = Body(_bound(function, self), opsets)
        given = dict(zip(body.inputs, inputs, strict=False))
        return tuple(body({n: given.get(n) for n in body.inputs}, self.floating))


def _arguments(call: Call, known: Operator, inputs: Sequence[Any]) -> Iterator[Any]:
    why = f"{call.step.op} needs its data to be known"
    for i, slot in enumerate(inputs):
        if known.slots or not isinstance(slot, Slot | list):
            yield slot
        elif i in known.host:
            yield slot.as_array(why) if isinstance(slot, Slot) else slot
        else:
            yield call.tensor(slot)


def _inputs(slot: Any) -> frozenset[str]:
    if isinstance(slot, list):
        return frozenset().union(*map(_inputs, slot))
    return slot.inputs if isinstance(slot, Slot) else frozenset()


def _slot(name: str, result: Any, depends: frozenset[str], code: int | None) -> Any:
    if isinstance(result, Slot):
        return result
    if isinstance(result, torch.Tensor):
        return Slot(name, result, inputs=depends, code=code)
    if isinstance(result, list):
        return [_slot(f"{name}[{i}]", r, depends, code) for i, r in enumerate(result)]
    return None if result is None else on_host(name, result)


def _attributes(proto: Any, opsets: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Body]]:
    import onnx

    attributes: dict[str, Any] = {}
    bodies: dict[str, Body] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.GRAPH:
            bodies[attribute.name] = Body(value, opsets)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            attributes[attribute.name] = _array_of(value)
        elif isinstance(value, bytes):
            attributes[attribute.name] = value.decode(errors="replace")
        elif isinstance(value, list | tuple):
            attributes[attribute.name] = [v.decode() if isinstance(v, bytes) else v for v in value]
        else:
            attributes[attribute.name] = value
    return attributes, bodies


def _function(call: Call, inputs: Sequence[Any]) -> Any:
    import onnx

    step = call.step
    try:
        schema = onnx.defs.get_schema(step.op, call.version, step.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    types = [b"" if s is None else _type(call.tensor(s)).SerializeToString() for s in inputs]
    version = max(v for v in schema.context_dependent_function_opset_versions if v <= call.version)
    text = schema.get_context_dependent_function_with_opset_version(
        version, step.proto.SerializeToString(), types
    )
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    return function


def _type(tensor: Any) -> Any:
    import onnx

    if isinstance(tensor, list):
        return onnx.helper.make_sequence_type_proto(_type(tensor[0]))
    dtype = torch.float32 if tensor.dtype == torch.float64 else tensor.dtype
    shape = [d if isinstance(d, int) else None for d in tensor.shape]
    return onnx.helper.make_tensor_type_proto(onnx_code(dtype), shape)


def _bound(function: Any, call: Call) -> Any:
    """Return a function's body with the attributes of its call in place of references to them."""
    import onnx

    schema = onnx.defs.get_schema(call.step.op, call.version, call.step.domain)
    given = {a.name: a for a in call.step.proto.attribute}
    defaults = {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}
    defaults |= {a.name: a for a in function.attribute_proto}
    result = onnx.FunctionProto()
    result.CopyFrom(function)
    for node in result.node:
        kept = []
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                kept.append(attribute)
                continue
            source = given.get(attribute.ref_attr_name) or defaults.get(attribute.ref_attr_name)
            if source is not None:
                renamed = onnx.AttributeProto()
                renamed.CopyFrom(source)
                renamed.name = attribute.name
                kept.append(renamed)
        del node.attribute[:]
        node.attribute.extend(kept)
    return result


def _array_of(tensor: Any) -> Array:
    import onnx

    try:
        array: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"the tensor {tensor.name!r} of shape {list(tensor.dims)} does not hold its elements: {error}"
        ) from error
    return array


def _unique(names: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        while name in found:
            name += "_"
        found[name] = None
    return list(found)


def _identifier(name: str) -> str:
    made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "node"
    return f"n{made}" if made == "self" or made[0].isdigit() or keyword.iskeyword(made) else made
