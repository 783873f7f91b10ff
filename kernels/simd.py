"""Vectors of 16 lanes inside numba: types, loads and stores by address, and the few primitives that differ
per CPU.

Kernels here work on raw addresses (int64), not on arrays: a program's operations come as a table of numbers.
Each function below is one LLVM operation or a handful; LLVM splits 512-bit vectors where the CPU has narrower
ones, so a kernel is written once. Only `dot_u8s8` looks at the CPU's features.

Floating-point contraction and reassociation stay off: what is fused says `fma`, and sums have one order. Who
passes a wrong address gets a crash, so only the launchers in this package, which check shapes first, may call
these.
"""

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import models, overload, register_model

from .half import narrow, widen
from .intrinsic import call_llvm, define, load, pointer, splat, store

LANES = 16

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()


class _Vector(types.Type):
    def __init__(self, name: str, element: Any, lanes: int) -> None:
        super().__init__(name)
        self.element = element
        self.llvm = ir.VectorType(element, lanes)


class _VectorF32(_Vector): ...


class _VectorI32(_Vector): ...


class _VectorU8(_Vector): ...


f32x16 = _VectorF32("f32x16", _F32, 16)
i32x16 = _VectorI32("i32x16", _I32, 16)
u8x64 = _VectorU8("u8x64", _I8, 64)


@register_model(_VectorF32)
@register_model(_VectorI32)
@register_model(_VectorU8)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Vector) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)  # type: ignore[no-untyped-call]


# Scalars by address


@define(types.int64, types.int64)
def load_i64(context: Any, builder: Any, address: Any) -> Any:
    return load(builder, address, _I64, 8)


@define(types.int64, types.int64)
def load_i32(context: Any, builder: Any, address: Any) -> Any:
    return builder.sext(load(builder, address, _I32, 4), _I64)


@define(types.int64, types.int64)
def load_i8(context: Any, builder: Any, address: Any) -> Any:
    return builder.sext(load(builder, address, _I8, 1), _I64)


@define(types.int64, types.int64)
def load_u8(context: Any, builder: Any, address: Any) -> Any:
    return builder.zext(load(builder, address, _I8, 1), _I64)


@define(types.float32, types.int64)
def load_f32(context: Any, builder: Any, address: Any) -> Any:
    return load(builder, address, _F32, 4)


@define(types.float32, types.int64)
def load_f16(context: Any, builder: Any, address: Any) -> Any:
    return widen(builder, load(builder, address, _I16, 2))


@define(types.float32, types.int64)
def load_bf16(context: Any, builder: Any, address: Any) -> Any:
    word = builder.zext(load(builder, address, _I16, 2), _I32)
    return builder.bitcast(builder.shl(word, ir.Constant(_I32, 16)), _F32)


@define(types.void, types.int64, types.int64)
def store_i8(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, builder.trunc(value, _I8), 1)


@define(types.void, types.int64, types.int64)
def store_i32(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, builder.trunc(value, _I32), 4)


@define(types.void, types.int64, types.int64)
def store_i64(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, value, 8)


@define(types.void, types.int64, types.float32)
def store_f32(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, value, 4)


@define(types.void, types.int64, types.float32)
def store_f16(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, narrow(builder, value), 2)


# Vectors by address


@define(f32x16, types.int64)
def vload_f32(context: Any, builder: Any, address: Any) -> Any:
    return load(builder, address, f32x16.llvm, 4)


@define(f32x16, types.int64)
def vload_f16(context: Any, builder: Any, address: Any) -> Any:
    """16 float16 values, widened to float32."""
    return widen(builder, load(builder, address, ir.VectorType(_I16, 16), 2))


@define(u8x64, types.int64)
def vload_u8(context: Any, builder: Any, address: Any) -> Any:
    return load(builder, address, u8x64.llvm, 1)


@define(types.void, types.int64, f32x16)
def vstore_f32(context: Any, builder: Any, address: Any, value: Any) -> None:
    store(builder, address, value, 4)


@define(types.void, types.int64, i32x16)
def vstore_i8(context: Any, builder: Any, address: Any, value: Any) -> None:
    """The low byte of each lane."""
    store(builder, address, builder.trunc(value, ir.VectorType(_I8, 16)), 1)


@define(types.void, types.int64)
def prefetch(context: Any, builder: Any, address: Any) -> None:
    """Ask for the cache line at `address`; a hint, harmless wherever it points."""
    line = pointer(builder, address, _I8)
    hints = [ir.Constant(_I32, value) for value in (0, 3, 1)]  # to read, keep in all caches, data
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), line, *hints)


# Arithmetic


@define(f32x16, types.float32)
def splat_f32(context: Any, builder: Any, value: Any) -> Any:
    return splat(builder, value, 16)


@define(i32x16, types.int64)
def splat_i32(context: Any, builder: Any, value: Any) -> Any:
    return splat(builder, builder.trunc(value, _I32), 16)


@define(f32x16, f32x16, f32x16, f32x16)
def fma(context: Any, builder: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c` with one rounding."""
    return call_llvm(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, c)


@define(f32x16, f32x16, f32x16)
def _vadd(context: Any, builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b)


@define(f32x16, f32x16, f32x16)
def _vsub(context: Any, builder: Any, a: Any, b: Any) -> Any:
    return builder.fsub(a, b)


@define(f32x16, f32x16, f32x16)
def _vmul(context: Any, builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b)


@define(f32x16, f32x16, f32x16)
def _vdiv(context: Any, builder: Any, a: Any, b: Any) -> Any:
    return builder.fdiv(a, b)


@define(i32x16, i32x16, i32x16)
def _iadd(context: Any, builder: Any, a: Any, b: Any) -> Any:
    return builder.add(a, b)


@define(f32x16, f32x16, f32x16)
def vmax(context: Any, builder: Any, a: Any, b: Any) -> Any:
    """The larger of each pair; a NaN in `a` gives `b`'s lane."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@define(f32x16, f32x16)
def vabs(context: Any, builder: Any, a: Any) -> Any:
    return call_llvm(builder, "llvm.fabs.v16f32", f32x16.llvm, a)


@define(f32x16, f32x16)
def vround(context: Any, builder: Any, a: Any) -> Any:
    """To the nearest integer, ties to even."""
    return call_llvm(builder, "llvm.rint.v16f32", f32x16.llvm, a)


@define(i32x16, f32x16)
def to_i32(context: Any, builder: Any, a: Any) -> Any:
    return builder.fptosi(a, i32x16.llvm)


@define(f32x16, i32x16)
def to_f32(context: Any, builder: Any, a: Any) -> Any:
    return builder.sitofp(a, f32x16.llvm)


@define(f32x16, f32x16)
def power_of_two(context: Any, builder: Any, a: Any) -> Any:
    """2**a for integral `a` in -126 … 127, by building the exponent."""
    exponent = builder.add(builder.fptosi(a, i32x16.llvm), ir.Constant(i32x16.llvm, [127] * 16))
    return builder.bitcast(builder.shl(exponent, ir.Constant(i32x16.llvm, [23] * 16)), f32x16.llvm)


@define(f32x16, f32x16, types.int64, types.float32)
def keep_first(context: Any, builder: Any, a: Any, count: Any, other: Any) -> Any:
    """Lanes below `count` as they are, `other` in the rest."""
    lane = ir.Constant(i32x16.llvm, list(range(16)))
    below = builder.icmp_signed("<", lane, splat(builder, builder.trunc(count, _I32), 16))
    return builder.select(below, a, splat(builder, other, 16))


def _halve(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    lanes = 16
    while lanes > 1:
        lanes //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
        high = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes, 2 * lanes)))
        vector = combine(
            builder.shuffle_vector(vector, undefined, low), builder.shuffle_vector(vector, undefined, high)
        )
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@define(types.float32, f32x16)
def sum_lanes(context: Any, builder: Any, a: Any) -> Any:
    """The sum of the lanes, halves added to halves: one order on every CPU."""
    return _halve(builder, a, builder.fadd)


@define(types.float32, f32x16)
def max_lanes(context: Any, builder: Any, a: Any) -> Any:
    return _halve(builder, a, lambda x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))


@define(types.int64, i32x16)
def sum_lanes_i32(context: Any, builder: Any, a: Any) -> Any:
    return builder.sext(_halve(builder, a, builder.add), _I64)


def _overload_operator(op: Callable[..., Any], floats: Any, ints: Any = None) -> None:
    @overload(op, strict=False)
    def _select(a: Any, b: Any) -> Any:
        if isinstance(a, _VectorF32) and isinstance(b, _VectorF32):
            return lambda a, b: floats(a, b)
        if ints is not None and isinstance(a, _VectorI32) and isinstance(b, _VectorI32):
            return lambda a, b: ints(a, b)
        return None


_overload_operator(operator.add, _vadd, _iadd)
_overload_operator(operator.sub, _vsub)
_overload_operator(operator.mul, _vmul)
_overload_operator(operator.truediv, _vdiv)


# Quantized products


@define(f32x16, types.int64)
def vload_bf16(context: Any, builder: Any, address: Any) -> Any:
    """16 bfloat16 values, widened to float32."""
    words = builder.zext(load(builder, address, ir.VectorType(_I16, 16), 2), i32x16.llvm)
    return builder.bitcast(builder.shl(words, ir.Constant(i32x16.llvm, [16] * 16)), f32x16.llvm)


@define(f32x16, types.int64)
def vload_u8_f32(context: Any, builder: Any, address: Any) -> Any:
    """16 uint8 values as float32."""
    return builder.uitofp(load(builder, address, ir.VectorType(_I8, 16), 1), f32x16.llvm)


@define(f32x16, types.int64)
def vload_i8_f32(context: Any, builder: Any, address: Any) -> Any:
    """16 int8 values as float32."""
    return builder.sitofp(load(builder, address, ir.VectorType(_I8, 16), 1), f32x16.llvm)


@define(u8x64, u8x64, u8x64, types.int64, types.int64)
def with_upper_bits(context: Any, builder: Any, low: Any, upper: Any, shift: Any, mask: Any) -> Any:
    """`low` | (`upper` shifted left by `shift`, kept where `mask` is set); both constant, shift -8 … 8."""
    # shifted as 32-bit words, which every CPU has; what crosses into a neighbour's byte is masked off
    words, vector = builder.bitcast(upper, i32x16.llvm), i32x16.llvm
    count = splat(builder, builder.trunc(shift, _I32), 16)
    zero = ir.Constant(vector, [0] * 16)
    left = builder.shl(words, builder.select(builder.icmp_signed("<", count, zero), zero, count))
    right = builder.select(builder.icmp_signed("<", count, zero), builder.neg(count), zero)
    moved = builder.bitcast(builder.lshr(left, right), u8x64.llvm)
    return builder.or_(low, builder.and_(moved, splat(builder, builder.trunc(mask, _I8), 64)))


@define(u8x64, u8x64)
def low_nibbles(context: Any, builder: Any, a: Any) -> Any:
    return builder.and_(a, ir.Constant(u8x64.llvm, [15] * 64))


@define(u8x64, u8x64)
def high_nibbles(context: Any, builder: Any, a: Any) -> Any:
    return builder.lshr(a, ir.Constant(u8x64.llvm, [4] * 64))


def each(count: int) -> tuple[Any, Any, Any, Any, Any]:
    """(zeros, loads, fma_each, add_each, store_each): the same for tuples of `count` vectors at once.

    loads(address, step): the j-th has the float32 at address + j * step in all lanes. fma_each(v, factors,
    sums): to the j-th sum is added v * the j-th factor. store_each(address, step, vectors).
    """
    many: Any = types.UniTuple(f32x16, count)  # type: ignore[no-untyped-call]

    def pack(context: Any, builder: Any, vectors: list[Any]) -> Any:
        return context.make_tuple(builder, many, vectors)

    def unpack(builder: Any, *tuples: Any) -> list[list[Any]]:
        return [[builder.extract_value(vectors, j) for vectors in tuples] for j in range(count)]

    def at(builder: Any, address: Any, step: Any, j: int) -> Any:
        return builder.add(address, builder.mul(step, ir.Constant(_I64, j)))

    @define(many)
    def zeros(context: Any, builder: Any) -> Any:
        return pack(context, builder, [ir.Constant(f32x16.llvm, [0.0] * 16)] * count)

    @define(many, types.int64, types.int64)
    def loads(context: Any, builder: Any, address: Any, step: Any) -> Any:
        values = [load(builder, at(builder, address, step, j), _F32, 4) for j in range(count)]
        return pack(context, builder, [splat(builder, value, 16) for value in values])

    @define(many, f32x16, many, many)
    def fma_each(context: Any, builder: Any, v: Any, factors: Any, sums: Any) -> Any:
        pairs = unpack(builder, factors, sums)
        added = [call_llvm(builder, "llvm.fma.v16f32", f32x16.llvm, v, x, y) for x, y in pairs]
        return pack(context, builder, added)

    @define(many, many, many)
    def add_each(context: Any, builder: Any, a: Any, b: Any) -> Any:
        return pack(context, builder, [builder.fadd(x, y) for x, y in unpack(builder, a, b)])

    @define(types.void, types.int64, types.int64, many)
    def store_each(context: Any, builder: Any, address: Any, step: Any, vectors: Any) -> None:
        for j, (vector,) in enumerate(unpack(builder, vectors)):
            store(builder, at(builder, address, step, j), vector, 4)

    return zeros, loads, fma_each, add_each, store_each


inline = numba.njit(nogil=True, forceinline=True, error_model="numpy")
"""For the small functions that kernels are made of: always inlined, so that vectors stay in registers."""


@inline
def vexp(x: Any) -> Any:
    """e**x in float32 to about 2 units in the last place; below -87 it gives about 1e-38, above 88 about
    1e38.

    2**n * p(r), n = round(x / ln 2), |r| <= ln 2 / 2, p the Taylor polynomial to the 7th power (error 1e-8
    relative).
    """
    x = vmax(x, splat_f32(-87.0))
    x = splat_f32(0.0) - vmax(splat_f32(0.0) - x, splat_f32(-88.0))
    n = vround(x * splat_f32(1.4426950408889634))
    r = fma(n, splat_f32(-0.693359375), x)  # ln 2 in two pieces, the first exact in few bits
    r = fma(n, splat_f32(2.1219444005469057e-4), r)
    p = fma(r, splat_f32(1 / 5040), splat_f32(1 / 720))
    p = fma(p, r, splat_f32(1 / 120))
    p = fma(p, r, splat_f32(1 / 24))
    p = fma(p, r, splat_f32(1 / 6))
    p = fma(p, r, splat_f32(0.5))
    p = fma(p, r, splat_f32(1.0))
    p = fma(p, r, splat_f32(1.0))
    return p * power_of_two(n)
