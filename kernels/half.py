"""float16 to float32 and back, on CPUs that can and on those that cannot: pieces of LLVM, of scalars and of
vectors.
"""

from typing import Any

from llvmlite import ir

from .isa import has_half_conversions

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_F16, _F32 = ir.HalfType(), ir.FloatType()


def _like(kind: Any, shape: Any) -> Any:
    """`kind`, or a vector of it where `shape` is a vector."""
    return ir.VectorType(kind, shape.count) if isinstance(shape, ir.VectorType) else kind


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def widen(builder: Any, half: Any) -> Any:
    """float16, as 16-bit integers, to float32; scalar or vector. Done without the CPU: finite ones only."""
    words, floats = _like(_I32, half.type), _like(_F32, half.type)
    if has_half_conversions():
        return builder.fpext(builder.bitcast(half, _like(_F16, half.type)), floats)
    bits = builder.zext(half, words)
    magnitude = builder.shl(builder.and_(bits, _constant(words, 0x7FFF)), _constant(words, 13))
    # the exponents' biases differ by 112; a product also puts subnormal values right
    value = builder.fmul(builder.bitcast(magnitude, floats), _constant(floats, 2.0**112))
    sign = builder.shl(builder.and_(bits, _constant(words, 0x8000)), _constant(words, 16))
    return builder.bitcast(builder.or_(builder.bitcast(value, words), sign), floats)


def narrow(builder: Any, value: Any) -> Any:
    """float32 to float16, as 16-bit integers, to the nearest, ties to even; too large becomes 65504 or
    infinity.
    """
    halves, words, floats = (_like(kind, value.type) for kind in (_I16, _I32, _F32))
    if has_half_conversions():
        return builder.bitcast(builder.fptrunc(value, _like(_F16, value.type)), halves)
    bits = builder.bitcast(value, words)
    magnitude = builder.bitcast(builder.and_(bits, _constant(words, 0x7FFFFFFF)), floats)
    most = _constant(floats, 65504.0)
    magnitude = builder.select(builder.fcmp_ordered("<", magnitude, most), magnitude, most)
    small = builder.bitcast(builder.fmul(magnitude, _constant(floats, 2.0**-112)), words)
    even = builder.and_(builder.lshr(small, _constant(words, 13)), _constant(words, 1))
    rounded = builder.lshr(
        builder.add(small, builder.add(even, _constant(words, 0xFFF))), _constant(words, 13)
    )
    sign = builder.and_(builder.lshr(bits, _constant(words, 16)), _constant(words, 0x8000))
    return builder.trunc(builder.or_(rounded, sign), halves)
