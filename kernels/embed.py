"""One row of a packed matrix as float32: how a token becomes its embedding."""

from typing import Any

import numpy as np

from .formats import BLOCK
from .simd import inline, load_f16, load_f32, load_u8, store_f32


def _make_quantized(bits: int, zero: int, has_min: bool) -> Any:
    @inline
    def fetch(w, group_bytes, d_bytes, q_at, columns, row, y):  # type: ignore[no-untyped-def]
        """Row `row` of the packed matrix at address w into float32 at address y."""
        group, lane = w + (row // 16) * group_bytes, row % 16
        for block in range(columns // BLOCK):
            d = load_f16(group + block * 32 + lane * 2)
            m = load_f16(group + d_bytes + block * 32 + lane * 2) if has_min else np.float32(0)
            q = group + q_at + block * (16 * BLOCK * bits // 8) + lane * 4
            for i in range(BLOCK):
                byte = load_u8(q + (i % (bits * 4)) // 4 * 64 + i % 4)
                if bits == 4:
                    byte = byte & 15 if i < 16 else byte >> 4
                store_f32(y + (block * BLOCK + i) * 4, np.float32(byte - zero) * d + m)

    return fetch


def _make_float(bits: int) -> Any:
    @inline
    def fetch(w, group_bytes, d_bytes, q_at, columns, row, y):  # type: ignore[no-untyped-def]
        at = w + (row // 16) * group_bytes + (row % 16) * (bits // 8)
        for k in range(columns):
            here = at + k * 2 * bits
            store_f32(y + k * 4, load_f16(here) if bits == 16 else load_f32(here))

    return fetch


fetch_f32 = _make_float(32)
fetch_f16 = _make_float(16)
fetch_q4_0 = _make_quantized(4, 8, False)
fetch_q4_1 = _make_quantized(4, 0, True)
fetch_q8_0 = _make_quantized(8, 128, False)
