"""The one primitive that differs per instruction set: 16 integer dot products of four bytes.

`dot_u8s8` takes any unsigned bytes; `dot_u7s8` bytes below 128, which AVX2 and NEON can multiply in fewer
steps. Both are exact, so that every instruction set gives the same integers.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types

from .intrinsic import call_llvm, define, load, splat
from .isa import choose
from .simd import i32x16, u8x64

_I8, _I16, _I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)

_BYTE_OPERANDS = llvm.llvm_version_info[0] >= 22
"""LLVM's dot product intrinsics for x86 took their bytes as words before version 22."""


@define(i32x16, i32x16, u8x64, types.int64)
def dot_u8s8(context: Any, builder: Any, accumulator: Any, unsigned: Any, address: Any) -> Any:
    """Lane i: accumulator[i] + Σ unsigned[4i+k] * signed[k], k < 4, the 4 int8 at `address` shared by all
    lanes.
    """
    return emit(choose(), builder, accumulator, unsigned, load(builder, address, _I32, 1), small=False)


@define(i32x16, i32x16, u8x64, types.int64)
def dot_u7s8(context: Any, builder: Any, accumulator: Any, unsigned: Any, address: Any) -> Any:
    """The same for unsigned bytes below 128."""
    return emit(choose(), builder, accumulator, unsigned, load(builder, address, _I32, 1), small=True)


def emit(isa: str, builder: Any, accumulator: Any, unsigned: Any, four: Any, *, small: bool) -> Any:
    """The code for an instruction set. `four`: an i32 with the four signed bytes."""
    signed = builder.bitcast(splat(builder, four, 16), u8x64.llvm)
    if isa == "avx512-vnni":
        return _vpdpbusd(builder, accumulator, unsigned, signed, 512)
    if isa == "avx-vnni":
        return _by_parts(builder, _vpdpbusd_256, 2, accumulator, unsigned, signed)
    if isa == "avx2":
        return _by_parts(builder, _maddubs if small else _sign_maddubs, 2, accumulator, unsigned, signed)
    if isa == "neon-dotprod":
        return _by_parts(builder, _sdot if small else _shifted_sdot, 4, accumulator, unsigned, signed)
    return _portable(builder, accumulator, unsigned, signed)


def _vector(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes)


def _constant(vector: Any, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _slice(builder: Any, vector: Any, start: int, lanes: int) -> Any:
    picks = ir.Constant(_vector(_I32, lanes), list(range(start, start + lanes)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), picks)


def _by_parts(builder: Any, product: Any, parts: int, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    """Apply a narrower product to each part of the 512 bits, and put the results together."""
    results = [
        product(
            builder,
            _slice(builder, accumulator, 16 // parts * i, 16 // parts),
            _slice(builder, unsigned, 64 // parts * i, 64 // parts),
            _slice(builder, signed, 64 // parts * i, 64 // parts),
        )
        for i in range(parts)
    ]
    while len(results) > 1:
        lanes = results[0].type.count * 2
        picks = ir.Constant(_vector(_I32, lanes), list(range(lanes)))
        results = [
            builder.shuffle_vector(a, b, picks) for a, b in zip(results[::2], results[1::2], strict=True)
        ]
    return results[0]


def _vpdpbusd(builder: Any, accumulator: Any, unsigned: Any, signed: Any, width: int) -> Any:
    operand = _vector(_I8, width // 8) if _BYTE_OPERANDS else _vector(_I32, width // 32)
    operands = [builder.bitcast(value, operand) for value in (unsigned, signed)]
    return call_llvm(builder, f"llvm.x86.avx512.vpdpbusd.{width}", accumulator.type, accumulator, *operands)


def _vpdpbusd_256(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    return _vpdpbusd(builder, accumulator, unsigned, signed, 256)


def _maddubs(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    """Pairs of products in 16 bits (2 * 127 * 127 fits), then pairs of those."""
    words = _vector(_I16, 16)
    pairs = call_llvm(builder, "llvm.x86.avx2.pmadd.ub.sw", words, unsigned, signed)
    sums = call_llvm(builder, "llvm.x86.avx2.pmadd.wd", _vector(_I32, 8), pairs, _constant(words, 1))
    return builder.add(accumulator, sums)


def _sign_maddubs(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    """u * s = (u - 128) * s + 128 * s; the first as |u - 128| * (s with that sign), which fits 16 bits in
    pairs.
    """
    centred = builder.xor(unsigned, _constant(unsigned.type, 0x80))
    negative = builder.icmp_signed("<", centred, _constant(centred.type, 0))
    magnitude = builder.select(negative, builder.neg(centred), centred)
    turned = builder.select(negative, builder.neg(signed), signed)
    accumulator = _maddubs(builder, accumulator, magnitude, turned)
    # 64 * s twice, since 128 would not fit with a partner
    sums = _maddubs(builder, _constant(accumulator.type, 0), _constant(unsigned.type, 64), signed)
    return builder.add(accumulator, builder.add(sums, sums))


def _sdot(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    kind = accumulator.type
    return call_llvm(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", kind, accumulator, unsigned, signed)


def _shifted_sdot(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    """u * s = (u - 128) * s + 128 * s."""
    centred = builder.xor(unsigned, _constant(unsigned.type, 0x80))
    accumulator = _sdot(builder, accumulator, centred, signed)
    for _ in range(2):
        accumulator = _sdot(builder, accumulator, _constant(unsigned.type, 64), signed)
    return accumulator


def _portable(builder: Any, accumulator: Any, unsigned: Any, signed: Any) -> Any:
    """As plain as can be: widen, multiply, add."""
    wide = _vector(_I32, 64)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    undefined = ir.Constant(wide, ir.Undefined)
    for k in range(4):
        picks = ir.Constant(_vector(_I32, 16), [4 * i + k for i in range(16)])
        accumulator = builder.add(accumulator, builder.shuffle_vector(products, undefined, picks))
    return accumulator
