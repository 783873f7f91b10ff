"""Intrinsics: how a piece of LLVM becomes a function of compiled code, and what such pieces are made of."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .isa import choose

choose()  # before anything is compiled

_I32 = ir.IntType(32)


def define(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of `emit(context, builder, *values)`, with fixed types."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            values = [
                context.cast(builder, value, came, want)
                for value, came, want in zip(values, signature.args, parameters, strict=True)
            ]
            produced = emit(context, builder, *values)
            return context.get_dummy_value() if result is types.void else produced

        names = ", ".join(f"a{i}" for i in range(len(parameters)))
        scope: dict[str, Any] = {
            "types": types,
            "result": result,
            "parameters": parameters,
            "codegen": codegen,
        }
        # numba reads an intrinsic's arity from its signature, hence the one generated line.
        exec(f"def {emit.__name__}(typingctx, {names}): return result(*parameters), codegen", scope)
        made = scope[emit.__name__]
        made.__doc__, made.__module__ = emit.__doc__, __name__
        return intrinsic(made)

    return decorate


def pointer(builder: Any, address: Any, element: Any) -> Any:
    return builder.inttoptr(address, element.as_pointer())


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(pointer(builder, address, kind), align=align)


def store(builder: Any, address: Any, value: Any, align: int) -> None:
    builder.store(value, pointer(builder, address, value.type), align=align)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def call_llvm(builder: Any, name: str, result: Any, *values: Any) -> Any:
    function_type = ir.FunctionType(result, [value.type for value in values])
    function = builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)
    return builder.call(function, values)
