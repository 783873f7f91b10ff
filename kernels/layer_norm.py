"""LayerNorm: y = (x - mean) / sqrt(variance + eps) * weight + bias, one row at a time (Ba et al., 2016).

Something is added to x first: the bias of the matrix product before it, or a row of a table of positions.
"""

import math
from typing import Any

import numpy as np

from .formats import Floats
from .simd import fma, inline, splat_f32, sum_lanes, vload_f32, vstore_f32


def reference(x: Floats, shift: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    """float32 [T, K] of x float32 [T, K], shift [K] or [T, K], weight and bias float32 [K]."""
    wide = x.astype(np.float64) + shift
    wide -= wide.mean(-1, keepdims=True)
    y: Floats = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight + bias
    return y.astype(np.float32)


def error_bound(x: Floats, shift: Floats, weight: Floats, bias: Floats, eps: float) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest input, in units of the
    spread that it is divided by.
    """
    wide = x.astype(np.float64) + shift
    spread = np.sqrt(wide.var(-1).min() + eps)
    largest = (np.abs(x).max() + np.abs(shift).max()) / spread + np.sqrt(x.shape[-1])
    return float((largest * np.abs(weight).max() + np.abs(bias).max()) * np.finfo(np.float32).eps * 4)


@inline
def layer_norm_row(x: Any, shift: Any, weight: Any, y: Any, columns: Any, eps: Any) -> None:
    """Normalise the float32 row at address x plus the one at `shift` into y, which may be x.

    `weight`: address of the weights and, after them, the biases. `columns` is a multiple of 16.
    """
    total = splat_f32(0.0)
    for k in range(0, columns, 16):
        v = vload_f32(x + k * 4) + vload_f32(shift + k * 4)
        vstore_f32(y + k * 4, v)
        total = total + v
    mean = splat_f32(sum_lanes(total) / np.float32(columns))
    squares = splat_f32(0.0)
    for k in range(0, columns, 16):
        v = vload_f32(y + k * 4) - mean
        squares = fma(v, v, squares)
    variance = sum_lanes(squares) / np.float32(columns)
    factor = splat_f32(np.float32(1) / math.sqrt(variance + np.float32(eps)))
    bias = weight + columns * 4
    for k in range(0, columns, 16):
        v = (vload_f32(y + k * 4) - mean) * factor
        vstore_f32(y + k * 4, fma(v, vload_f32(weight + k * 4), vload_f32(bias + k * 4)))
