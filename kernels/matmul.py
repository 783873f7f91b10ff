"""y = x @ W.T for packed weights: the product that nearly all of a model's time goes into.

One unit of work is a group of 16 output rows for all T rows of x. The 16 lanes of a vector are the 16 rows,
so a sum runs down the columns in one fixed order, whatever T is: a row of y does not depend on its company.
Quantized weights meet int8 activations: 32-bit integer sums per block of 32 (exact), scaled and added up in
float32 with explicit FMA.

`tile1` and `tile4` are the same sum for one and for four rows of x; four share the unpacking of the weights.
"""

from typing import Any

import numpy as np

from . import activations
from .formats import BLOCK, Floats
from .packed import PackedMatrix
from .simd import (
    dot_u8s8,
    fma,
    high_nibbles,
    inline,
    load_f32,
    load_i32,
    low_nibbles,
    splat_f32,
    splat_i32,
    to_f32,
    vload_f16,
    vload_f32,
    vload_u8,
    vstore_f32,
)


def reference(w: PackedMatrix, x: Floats) -> Floats:
    """float32 [T, rows] of x float32 [T, columns]; for quantized weights x is rounded to int8 first."""
    seen = activations.dequantized_reference(x) if w.format.quantized else x
    return (seen.astype(np.float64) @ w.dequantize().astype(np.float64).T).astype(np.float32)


def error_bound(w: PackedMatrix, x: Floats) -> float:
    """Largest allowed |implementation - reference|: rounding of a float32 sum of `columns` terms, sqrt
    growth.
    """
    magnitude = np.abs(x).max() * np.abs(w.dequantize()).sum(1).max()
    return float(magnitude * np.finfo(np.float32).eps * 4)


def _make_quantized(bits: int, zero: int, has_min: bool) -> tuple[Any, Any]:
    block_bytes = 16 * BLOCK * bits // 8

    @inline
    def weights(q):  # type: ignore[no-untyped-def]
        """The eight operands of a block: columns 0-3, 4-7, … 28-31 of 16 rows."""
        if bits == 4:
            a, b, c, d = vload_u8(q), vload_u8(q + 64), vload_u8(q + 128), vload_u8(q + 192)
            return (
                low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d),
                high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d),
            )  # fmt: skip
        return (
            vload_u8(q), vload_u8(q + 64), vload_u8(q + 128), vload_u8(q + 192),
            vload_u8(q + 256), vload_u8(q + 320), vload_u8(q + 384), vload_u8(q + 448),
        )  # fmt: skip

    @inline
    def add_block(acc, w, d, m, x, columns, block):  # type: ignore[no-untyped-def]
        """acc + the product of one block of weights with the same block of the quantized row at x."""
        q = x + block * BLOCK
        scales = x + columns + block * 4
        even = splat_i32(-zero * load_i32(scales + columns // BLOCK * 8)) if zero != 0 else splat_i32(0)
        odd = dot_u8s8(splat_i32(0), w[1], q + 4)
        even = dot_u8s8(even, w[0], q)
        odd = dot_u8s8(odd, w[3], q + 12)
        even = dot_u8s8(even, w[2], q + 8)
        odd = dot_u8s8(odd, w[5], q + 20)
        even = dot_u8s8(even, w[4], q + 16)
        odd = dot_u8s8(odd, w[7], q + 28)
        even = dot_u8s8(even, w[6], q + 24)
        acc = fma(to_f32(even + odd), d * splat_f32(load_f32(scales)), acc)
        if has_min:
            acc = fma(m, splat_f32(load_f32(scales + columns // BLOCK * 4)), acc)
        return acc

    @inline
    def tile1(group, d_bytes, q_at, columns, x, x_stride):  # type: ignore[no-untyped-def]
        a = splat_f32(0.0)
        for block in range(columns // BLOCK):
            w = weights(group + q_at + block * block_bytes)
            d = vload_f16(group + block * 32)
            m = vload_f16(group + d_bytes + block * 32) if has_min else d
            a = add_block(a, w, d, m, x, columns, block)
        return a

    @inline
    def tile4(group, d_bytes, q_at, columns, x, x_stride):  # type: ignore[no-untyped-def]
        a = b = c = e = splat_f32(0.0)
        for block in range(columns // BLOCK):
            w = weights(group + q_at + block * block_bytes)
            d = vload_f16(group + block * 32)
            m = vload_f16(group + d_bytes + block * 32) if has_min else d
            a = add_block(a, w, d, m, x, columns, block)
            b = add_block(b, w, d, m, x + x_stride, columns, block)
            c = add_block(c, w, d, m, x + 2 * x_stride, columns, block)
            e = add_block(e, w, d, m, x + 3 * x_stride, columns, block)
        return a, b, c, e

    return tile1, tile4


def _make_float(bits: int) -> tuple[Any, Any]:
    step = 16 * bits // 8

    @inline
    def weights(address):  # type: ignore[no-untyped-def]
        return vload_f16(address) if bits == 16 else vload_f32(address)

    @inline
    def tile1(group, d_bytes, q_at, columns, x, x_stride):  # type: ignore[no-untyped-def]
        a = splat_f32(0.0)
        for k in range(columns):
            a = fma(weights(group + k * step), splat_f32(load_f32(x + k * 4)), a)
        return a

    @inline
    def tile4(group, d_bytes, q_at, columns, x, x_stride):  # type: ignore[no-untyped-def]
        a = b = c = e = splat_f32(0.0)
        for k in range(columns):
            w = weights(group + k * step)
            at = x + k * 4
            a = fma(w, splat_f32(load_f32(at)), a)
            b = fma(w, splat_f32(load_f32(at + x_stride)), b)
            c = fma(w, splat_f32(load_f32(at + 2 * x_stride)), c)
            e = fma(w, splat_f32(load_f32(at + 3 * x_stride)), e)
        return a, b, c, e

    return tile1, tile4


def _make_groups(tile1: Any, tile4: Any) -> Any:
    @inline
    def put(y, value, add):  # type: ignore[no-untyped-def]
        if add:
            value = vload_f32(y) + value
        vstore_f32(y, value)

    @inline
    def groups(  # type: ignore[no-untyped-def]
        w, group_bytes, d_bytes, q_at, columns, x, x_stride, y, y_stride, rows, add, first, last
    ):  # fmt: skip
        """Output groups first … last-1 for all rows of x; `add` adds to what y holds (the residual)."""
        for group in range(first, last):
            at = w + group * group_bytes
            out = y + group * 64
            t = 0
            while t + 4 <= rows:
                a, b, c, d = tile4(at, d_bytes, q_at, columns, x + t * x_stride, x_stride)
                put(out + t * y_stride, a, add)
                put(out + (t + 1) * y_stride, b, add)
                put(out + (t + 2) * y_stride, c, add)
                put(out + (t + 3) * y_stride, d, add)
                t += 4
            while t < rows:
                put(out + t * y_stride, tile1(at, d_bytes, q_at, columns, x + t * x_stride, x_stride), add)
                t += 1

    return groups


groups_f32 = _make_groups(*_make_float(32))
groups_f16 = _make_groups(*_make_float(16))
groups_q4_0 = _make_groups(*_make_quantized(4, 8, False))
groups_q4_1 = _make_groups(*_make_quantized(4, 0, True))
groups_q8_0 = _make_groups(*_make_quantized(8, 128, False))
