"""Activations as int8, in blocks of 32, for integer dot products.

One quantized row of K values lies in `row_bytes(K)` bytes, aligned to a cache line:

    q     int8     [K]       round(x / scale), ties to even
    scale float32  [K/32]    max |x| / 127 of the block
    ssum  float32  [K/32]    scale * sum of the block's q
    sums  int32    [K/16]    sums of the halves of each block's q

The sums are what a format's minimum and zero point are multiplied with.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Floats
from .memory import align_up
from .simd import (
    inline,
    max_lanes,
    splat_f32,
    store_f32,
    store_i32,
    sum_lanes_i32,
    to_i32,
    vabs,
    vload_f32,
    vmax,
    vround,
    vstore_i8,
)


def row_bytes(columns: int) -> int:
    return align_up(columns + columns // BLOCK * 16)


def reference(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(q int8 [T, K], scale float32 [T, K/32]) of float32 [T, K]."""
    blocks = x.reshape(len(x), -1, BLOCK)
    scale = np.abs(blocks).max(-1) * np.float32(1 / 127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    q = np.rint(blocks * inverse[..., None]).astype(np.int8)
    return q.reshape(x.shape), scale


def dequantized_reference(x: Floats) -> Floats:
    """float32 [T, K]: the values that a quantized product really multiplies with."""
    q, scale = reference(x)
    return q.astype(np.float32) * np.repeat(scale, BLOCK, axis=1)


@inline
def quantize_block(x: Any, row: Any, columns: Any, block: Any) -> None:
    """Quantize the 32 float32 at address `x` into block `block` of the quantized row at address `row`."""
    low, high = vload_f32(x), vload_f32(x + 64)
    scale = max_lanes(vmax(vabs(low), vabs(high))) * np.float32(1 / 127)
    inverse = np.float32(1) / scale if scale > np.float32(0) else np.float32(0)
    qlow, qhigh = to_i32(vround(low * splat_f32(inverse))), to_i32(vround(high * splat_f32(inverse)))
    vstore_i8(row + block * BLOCK, qlow)
    vstore_i8(row + block * BLOCK + 16, qhigh)
    first, second = sum_lanes_i32(qlow), sum_lanes_i32(qhigh)
    store_f32(row + columns + block * 4, scale)
    store_f32(row + columns + columns // BLOCK * 4 + block * 4, scale * np.float32(first + second))
    sums = row + columns + columns // BLOCK * 8 + block * 8
    store_i32(sums, first)
    store_i32(sums + 4, second)


@inline
def quantize_row(x: Any, row: Any, columns: Any) -> None:
    for block in range(columns // BLOCK):
        quantize_block(x + block * BLOCK * 4, row, columns, block)
