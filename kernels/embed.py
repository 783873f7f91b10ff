"""One row of a packed matrix as float32, times a scale: how a token becomes its embedding."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Floats, Format
from .jit import indirect_call, native
from .packed import PackedMatrix, plane_offsets
from .simd import (
    inline,
    load_bf16,
    load_f16,
    load_f32,
    load_i8,
    load_u8,
    splat_f32,
    store_f32,
    vload_f32,
    vstore_f32,
)


def reference(w: PackedMatrix, tokens: NDArray[np.int32], scale: float = 1.0) -> Floats:
    """float32 [T, columns]: rows `tokens` of w."""
    return w.dequantize()[tokens] * np.float32(scale)


def error_bound(w: PackedMatrix, scale: float = 1.0) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest weight."""
    return float(np.abs(w.dequantize()).max() * scale * np.finfo(np.float32).eps * 4)


offsets = inline(plane_offsets)


def _make_quantized(form: Format) -> Any:
    bits, zero, has_min, unit, sub = form.bits, form.zero, form.has_min, form.unit, form.sub
    low_bytes = 16 * BLOCK * (8 if bits == 8 else 4) // 8

    def fetch(w, group_bytes, columns, row, y):  # type: ignore[no-untyped-def]
        """Row `row` of the packed matrix at address w into float32 at address y."""
        group, lane = w + (row // 16) * group_bytes, row % 16
        m_at, s_at, n_at, h_at, q_at, _ = offsets(columns, unit, sub, bits, has_min)
        for i in range(columns):
            block, column = i // BLOCK, i % BLOCK
            operand, byte = column // 4, lane * 4 + column % 4
            q = group + q_at + block * low_bytes
            if bits == 8:
                code = load_u8(q + operand * 64 + byte)
            else:
                code = load_u8(q + operand % 4 * 64 + byte) >> (operand // 4 * 4) & 15
            if bits == 5:
                code |= (load_u8(group + h_at + block * 64 + byte) >> operand & 1) << 4
            if bits == 6:
                upper = load_u8(group + h_at + block * 128 + operand // 4 * 64 + byte)
                code |= (upper >> (operand % 4 * 2) & 3) << 4
            scale = load_f16(group + i // unit * 32 + lane * 2)
            minimum = load_f16(group + m_at + i // unit * 32 + lane * 2) if has_min else np.float32(0)
            if sub == 32:
                scale *= np.float32(load_u8(group + s_at + i // sub * 16 + lane))
                minimum *= -np.float32(load_u8(group + n_at + i // sub * 16 + lane))
            if sub == 16:
                scale *= np.float32(load_i8(group + s_at + i // sub * 16 + lane))
            store_f32(y + i * 4, np.float32(code - zero) * scale + minimum)

    return fetch


def _make_float(form: Format) -> Any:
    kind, size = form.ggml_type, form.block.itemsize

    def fetch(w, group_bytes, columns, row, y):  # type: ignore[no-untyped-def]
        at = w + (row // 16) * group_bytes + (row % 16) * size
        for k in range(columns):
            here = at + k * 16 * size
            if kind == 0:
                value = load_f32(here)
            elif kind == 1:
                value = load_f16(here)
            else:
                value = load_bf16(here)
            store_f32(y + k * 4, value)

    return fetch


@inline
def scale_row(y: Any, columns: Any, scale: Any) -> None:
    """Multiply the float32 row at address y; `columns` is a multiple of 16."""
    for k in range(0, columns, 16):
        vstore_f32(y + k * 4, vload_f32(y + k * 4) * splat_f32(scale))


call_fetch = indirect_call(5)
"""call_fetch(address, w, group_bytes, columns, row, y)"""


@cache
def address(form: Format) -> int:
    """Where the code for a format is, compiled at the first use."""
    return native(5)(_make_quantized(form) if form.quantized else _make_float(form))
