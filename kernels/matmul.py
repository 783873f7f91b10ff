"""y = x @ W.T for packed weights: the product that nearly all of a model's time goes into.

One unit of work is a group of 16 output rows for all T rows of x. The 16 lanes of a vector are the 16 rows,
so a sum runs down the columns in one fixed order, whatever T is: a row of y does not depend on its company.
Quantized weights meet int8 activations: 32-bit integer sums per block of 32 (exact), scaled and added up in
float32 with explicit FMA.

The loops for one and for four rows of x do the same sums; four rows share the unpacking of the weights.
"""

from functools import cache
from typing import Any

import numpy as np

from . import activations
from .dot import dot_u7s8, dot_u8s8
from .formats import BLOCK, Floats, Format
from .jit import indirect_call, native
from .packed import PackedMatrix, plane_offsets
from .simd import (
    fma,
    high_nibbles,
    inline,
    load_f32,
    load_i32,
    low_nibbles,
    prefetch,
    splat_f32,
    splat_i32,
    to_f32,
    vload_bf16,
    vload_f16,
    vload_f32,
    vload_i8_f32,
    vload_u8,
    vload_u8_f32,
    vstore_f32,
    with_upper_bits,
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


offsets = inline(plane_offsets)

# The functions of this section take a format's attributes as arguments. They are inlined where those are
# constants, so that every `if` on them is decided when a format's code is compiled.


@inline
def _weights(q, h, bits):  # type: ignore[no-untyped-def]
    """The eight operands of a block, columns 0-3, 4-7, … 28-31 of 16 rows; `h`: their upper bits."""
    a, b, c, d = vload_u8(q), vload_u8(q + 64), vload_u8(q + 128), vload_u8(q + 192)
    if bits == 8:
        return a, b, c, d, vload_u8(q + 256), vload_u8(q + 320), vload_u8(q + 384), vload_u8(q + 448)
    w0, w1, w2, w3 = low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d)
    w4, w5, w6, w7 = high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d)
    if bits == 5:
        u = vload_u8(h)
        w0, w1 = with_upper_bits(w0, u, 4, 16), with_upper_bits(w1, u, 3, 16)
        w2, w3 = with_upper_bits(w2, u, 2, 16), with_upper_bits(w3, u, 1, 16)
        w4, w5 = with_upper_bits(w4, u, 0, 16), with_upper_bits(w5, u, -1, 16)
        w6, w7 = with_upper_bits(w6, u, -2, 16), with_upper_bits(w7, u, -3, 16)
    elif bits == 6:
        u, v = vload_u8(h), vload_u8(h + 64)
        w0, w1 = with_upper_bits(w0, u, 4, 48), with_upper_bits(w1, u, 2, 48)
        w2, w3 = with_upper_bits(w2, u, 0, 48), with_upper_bits(w3, u, -2, 48)
        w4, w5 = with_upper_bits(w4, v, 4, 48), with_upper_bits(w5, v, 2, 48)
        w6, w7 = with_upper_bits(w6, v, 0, 48), with_upper_bits(w7, v, -2, 48)
    return w0, w1, w2, w3, w4, w5, w6, w7


@inline
def _scales(group, m_at, s_at, n_at, block, unit, sub, has_min):  # type: ignore[no-untyped-def]
    """(scale of the block's first half, of its second half, minimum), for 16 rows each."""
    at = block * BLOCK // unit * 32
    first = vload_f16(group + at)
    minimum = splat_f32(0.0)
    if has_min:
        minimum = vload_f16(group + m_at + at)
    second = first
    if sub == 32:
        first = first * vload_u8_f32(group + s_at + block * 16)
        second = first
        minimum = splat_f32(0.0) - minimum * vload_u8_f32(group + n_at + block * 16)
    elif sub == 16:
        second = first * vload_i8_f32(group + s_at + block * 32 + 16)
        first = first * vload_i8_f32(group + s_at + block * 32)
    return first, second, minimum


@inline
def _add_block(acc, w, d, x, columns, block, bits, zero, sub, has_min):  # type: ignore[no-untyped-def]
    """acc + the product of one block of weights with the same block of the quantized row at x."""
    q = x + block * BLOCK
    each = x + columns + block * 4
    sums = x + columns + columns // BLOCK * 8 + block * 8
    scale = splat_f32(load_f32(each))
    one = other = splat_i32(0)
    if zero != 0:
        if sub == 16:
            one, other = splat_i32(-zero * load_i32(sums)), splat_i32(-zero * load_i32(sums + 4))
        else:
            one = splat_i32(-zero * (load_i32(sums) + load_i32(sums + 4)))
    # two chains, each a half of the block, so that one product need not wait for the other
    for k in range(4):
        if bits == 8:
            one = dot_u8s8(one, w[k], q + 4 * k)
            other = dot_u8s8(other, w[4 + k], q + 16 + 4 * k)
        else:
            one = dot_u7s8(one, w[k], q + 4 * k)
            other = dot_u7s8(other, w[4 + k], q + 16 + 4 * k)
    first, second, minimum = d
    if sub == 16:
        acc = fma(to_f32(one), first * scale, acc)
        acc = fma(to_f32(other), second * scale, acc)
    else:
        acc = fma(to_f32(one + other), first * scale, acc)
    if has_min:
        acc = fma(minimum, splat_f32(load_f32(each + columns // BLOCK * 4)), acc)
    return acc


@inline
def _put(y, value, add):  # type: ignore[no-untyped-def]
    if add != 0:
        value = vload_f32(y) + value
    vstore_f32(y, value)


@inline
def _prefetch_lines(address, count):  # type: ignore[no-untyped-def]
    """The next group's share of a block. The hardware looks ahead too little: 2.5 times the bandwidth."""
    for line in range(count):
        prefetch(address + line * 64)


def _make_quantized(form: Format) -> Any:
    bits, zero, has_min, unit, sub = form.bits, form.zero, form.has_min, form.unit, form.sub
    low_bytes = 512 if bits == 8 else 256
    lines = -(-form.block.itemsize * 16 * BLOCK // form.unit // 64)  # of a block, all planes together

    def groups(  # type: ignore[no-untyped-def]
        w, group_bytes, columns, x, x_stride, y, y_stride, rows, add, first, last
    ):
        """Output groups first … last-1 for all rows of x; `add` = 1 adds to what y holds (the residual)."""
        m_at, s_at, n_at, h_at, q_at, _ = offsets(columns, unit, sub, bits, has_min)
        for nth in range(first, last):
            group, out, t = w + nth * group_bytes, y + nth * 64, 0
            while t + 4 <= rows:
                at = x + t * x_stride
                a = b = c = d = splat_f32(0.0)
                for block in range(columns // BLOCK):
                    if t == 0:
                        _prefetch_lines(group + group_bytes + block * lines * 64, lines)
                    v = _weights(
                        group + q_at + block * low_bytes, group + h_at + block * (bits - 4) * 64, bits
                    )
                    s = _scales(group, m_at, s_at, n_at, block, unit, sub, has_min)
                    a = _add_block(a, v, s, at, columns, block, bits, zero, sub, has_min)
                    b = _add_block(b, v, s, at + x_stride, columns, block, bits, zero, sub, has_min)
                    c = _add_block(c, v, s, at + 2 * x_stride, columns, block, bits, zero, sub, has_min)
                    d = _add_block(d, v, s, at + 3 * x_stride, columns, block, bits, zero, sub, has_min)
                _put(out + t * y_stride, a, add)
                _put(out + (t + 1) * y_stride, b, add)
                _put(out + (t + 2) * y_stride, c, add)
                _put(out + (t + 3) * y_stride, d, add)
                t += 4
            while t < rows:
                a = splat_f32(0.0)
                for block in range(columns // BLOCK):
                    if t == 0:
                        _prefetch_lines(group + group_bytes + block * lines * 64, lines)
                    v = _weights(
                        group + q_at + block * low_bytes, group + h_at + block * (bits - 4) * 64, bits
                    )
                    s = _scales(group, m_at, s_at, n_at, block, unit, sub, has_min)
                    a = _add_block(a, v, s, x + t * x_stride, columns, block, bits, zero, sub, has_min)
                _put(out + t * y_stride, a, add)
                t += 1

    return groups


@inline
def _floats(address, kind):  # type: ignore[no-untyped-def]
    if kind == 1:
        return vload_f16(address)
    if kind == 30:
        return vload_bf16(address)
    return vload_f32(address)


@inline
def _four_columns(at, step, kind):  # type: ignore[no-untyped-def]
    return (
        _floats(at, kind),
        _floats(at + step, kind),
        _floats(at + 2 * step, kind),
        _floats(at + 3 * step, kind),
    )


@inline
def _add_four(sums, v, x):  # type: ignore[no-untyped-def]
    """Four sums, each a quarter of the columns, plus four columns' products: none waits for another."""
    return (
        fma(v[0], splat_f32(load_f32(x)), sums[0]),
        fma(v[1], splat_f32(load_f32(x + 4)), sums[1]),
        fma(v[2], splat_f32(load_f32(x + 8)), sums[2]),
        fma(v[3], splat_f32(load_f32(x + 12)), sums[3]),
    )


@inline
def _total(sums):  # type: ignore[no-untyped-def]
    return (sums[0] + sums[1]) + (sums[2] + sums[3])


def _make_float(form: Format) -> Any:
    kind, step = form.ggml_type, 16 * form.block.itemsize

    def groups(  # type: ignore[no-untyped-def]
        w, group_bytes, columns, x, x_stride, y, y_stride, rows, add, first, last
    ):
        """The same for floating-point weights and float32 rows of x; `columns` is a multiple of 4."""
        zero = splat_f32(0.0)
        zeros = (zero, zero, zero, zero)
        for nth in range(first, last):
            group, out, t = w + nth * group_bytes, y + nth * 64, 0
            while t + 4 <= rows:
                a = b = c = d = zeros
                for k in range(0, columns, 4):
                    at = group + k * step
                    if t == 0:
                        _prefetch_lines(at + group_bytes, step // 16)
                    v = _four_columns(at, step, kind)
                    at = x + t * x_stride + k * 4
                    a = _add_four(a, v, at)
                    b = _add_four(b, v, at + x_stride)
                    c = _add_four(c, v, at + 2 * x_stride)
                    d = _add_four(d, v, at + 3 * x_stride)
                _put(out + t * y_stride, _total(a), add)
                _put(out + (t + 1) * y_stride, _total(b), add)
                _put(out + (t + 2) * y_stride, _total(c), add)
                _put(out + (t + 3) * y_stride, _total(d), add)
                t += 4
            while t < rows:
                a = zeros
                for k in range(0, columns, 4):
                    at = group + k * step
                    if t == 0:
                        _prefetch_lines(at + group_bytes, step // 16)
                    v = _four_columns(at, step, kind)
                    a = _add_four(a, v, x + t * x_stride + k * 4)
                _put(out + t * y_stride, _total(a), add)
                t += 1

    return groups


call_groups = indirect_call(11)
"""call_groups(address, w, group_bytes, columns, x, x_stride, y, y_stride, rows, add, first, last)"""


@cache
def address(form: Format) -> int:
    """Where the code for a format is, compiled at the first use: a model compiles the formats that it has."""
    return native(11)(_make_quantized(form) if form.quantized else _make_float(form))
