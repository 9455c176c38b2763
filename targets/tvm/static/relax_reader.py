"""Fused Relax module -> Program: the bindings of `main` are walked once, in order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from targets.tvm.static.program import Call, Kind, Program, Refusal, Storage, Tensor, content, element_bytes

Value: TypeAlias = "int | tuple[Value, ...] | None"  # a tensor, a tuple, or what no kernel reads
PACKED = ("tvm_call_packed", "call_packed", "call_cpacked")


def read_program(fused: Any) -> Program:
    """Return what the module's `main` computes; Refusal where it has no static form."""
    from tvm import relax

    module = relax.transform.RewriteDataflowReshape()(fused)
    reader = _Reader(relax)
    main = module["main"]
    inputs = tuple(reader.parameter(variable) for variable in main.params)
    if not isinstance(main.body, relax.SeqExpr):
        raise Refusal("its main function is no sequence of bindings")
    for block in main.body.blocks:
        for binding in block.bindings:
            reader.bind(binding)
    outputs = tuple(_flat(reader.value(main.body.body)))
    refuse_packed(module, {call.kernel for call in reader.calls})
    return reader.program(inputs, outputs)


class _Reader:
    """The program so far, and what each variable stands for."""

    def __init__(self, relax: Any) -> None:
        self.relax = relax
        self.storages: list[Storage] = []
        self.tensors: list[Tensor] = []
        self.calls: list[Call] = []
        self.values: dict[Any, Value] = {}
        self.weights: dict[bytes, int] = {}
        self.readers: Mapping[str, Callable[[Any], Value]] = {
            "relax.call_tir": self._call_tir,
            "relax.reshape": lambda call: self._view(self._one(call.args[0]), call.ty),
        }

    def program(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Program:
        """Return the program; what it returns and has computed lies apart from the arena."""
        for index in {self.tensors[t].storage for t in outputs}:
            if self.storages[index].kind is Kind.SCRATCH:
                self.storages[index] = dataclasses.replace(self.storages[index], kind=Kind.OUTPUT)
        return Program(tuple(self.storages), tuple(self.tensors), tuple(self.calls), inputs, outputs)

    def parameter(self, variable: Any) -> int:
        """Return the tensor of an input."""
        tensor = self._new(Kind.INPUT, variable.ty)
        self.values[variable] = tensor
        return tensor

    def bind(self, binding: Any) -> None:
        """Read one binding of a variable."""
        if isinstance(binding, self.relax.MatchCast):
            self.values[binding.var] = self._view(self._one(binding.value), binding.ty)
        else:
            self.values[binding.var] = self.value(binding.value)

    def value(self, expression: Any) -> Value:
        """Return what an expression stands for."""
        relax = self.relax
        if isinstance(expression, relax.Constant):
            return self._weight(expression)
        if isinstance(expression, relax.Tuple):
            return tuple(self.value(field) for field in expression.fields)
        if isinstance(expression, relax.TupleGetItem):
            fields = self.value(expression.tuple_value)
            assert isinstance(fields, tuple)
            return fields[int(expression.index)]
        if isinstance(expression, relax.Call):
            return self._call(expression)
        if isinstance(expression, relax.If):
            raise Refusal("it branches")
        if isinstance(expression, relax.ShapeExpr):
            return None
        if expression in self.values:
            return self.values[expression]
        raise Refusal(f"it holds a {type(expression).__name__}")

    def _call(self, call: Any) -> Value:
        name = getattr(call.op, "name", None) or getattr(call.op, "global_symbol", None) or str(call.op)
        if name not in self.readers:
            raise Refusal(f"it calls {name}")
        return self.readers[name](call)

    def _call_tir(self, call: Any) -> Value:
        if len(call.args) > 2:
            raise Refusal(f"the kernel {call.args[0].name_hint} takes sizes at run time")
        arguments = [self._one(field) for field in call.args[1].fields]
        result = self._results(call.ty_args[0])
        self.calls.append(Call(str(call.args[0].name_hint), (*arguments, *_flat(result))))
        return result

    def _results(self, type_: Any) -> Value:
        if isinstance(type_, self.relax.TupleType):
            return tuple(self._results(field) for field in type_.fields)
        return self._new(Kind.SCRATCH, type_)

    def _one(self, expression: Any) -> int:
        value = self.value(expression)
        if not isinstance(value, int):
            raise Refusal("a kernel takes what is no tensor")
        return value

    def _new(self, kind: Kind, type_: Any) -> int:
        shape, dtype = self._type(type_)
        self.storages.append(Storage(kind, math.prod(shape) * element_bytes(dtype)))
        return self._tensor(Tensor(len(self.storages) - 1, shape, dtype))

    def _view(self, tensor: int, type_: Any) -> int:
        return self._tensor(Tensor(self.tensors[tensor].storage, *self._type(type_)))

    def _weight(self, constant: Any) -> int:
        shape, dtype = self._type(constant.ty)
        data = content(constant.data.numpy())
        assert len(data) == math.prod(shape) * element_bytes(dtype)
        if data not in self.weights:
            self.storages.append(Storage(Kind.WEIGHT, len(data), data))
            self.weights[data] = len(self.storages) - 1
        return self._tensor(Tensor(self.weights[data], shape, dtype))

    def _tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _type(self, type_: Any) -> tuple[tuple[int, ...], str]:
        """Return shape and element type; Refusal where the shape is not known now."""
        import tvm

        sizes = getattr(getattr(type_, "shape", None), "values", None)
        if sizes is None or not all(isinstance(size, tvm.tirx.IntImm) for size in sizes):
            raise Refusal("its shapes are dynamic")
        return tuple(int(size) for size in sizes), str(type_.dtype)


def _flat(value: Value) -> list[int]:
    if value is None:
        raise Refusal("it returns what is no tensor")
    return [value] if isinstance(value, int) else [tensor for field in value for tensor in _flat(field)]


def refuse_packed(module: Any, kernels: set[str]) -> None:
    """Raise Refusal where a kernel calls back into TVM's runtime, as those of sorting do."""
    import tvm

    found: list[str] = []

    def visit(node: Any) -> None:
        op = str(getattr(getattr(node, "op", None), "name", "")).rpartition(".")[2]
        if any(op.startswith(packed) for packed in PACKED):
            found.append(str(node.args[0]))

    for name in sorted(kernels):
        tvm.tirx.stmt_functor.post_order_visit(module[name].body, visit)
        if found:
            raise Refusal(f"its kernel {name} calls {found[0]} of TVM's runtime")
