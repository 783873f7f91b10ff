"""RMSNorm: y = x / sqrt(mean(x²) + eps) * weight, one row at a time (Zhang and Sennrich, 2019).

A row is a token's, or one head's of it.
"""

import math
from typing import Any

import numpy as np

from .formats import Floats
from .simd import fma, inline, splat_f32, sum_lanes, vload_f32, vstore_f32


def reference(x: Floats, weight: Floats, eps: float) -> Floats:
    """float32 [T, K] of x float32 [T, K] and weight float32 [K]."""
    wide = x.astype(np.float64)
    y: Floats = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight).astype(np.float32)
    return y


def error_bound(x: Floats, weight: Floats) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest value."""
    return float(np.sqrt(x.shape[-1]) * np.abs(weight).max() * np.finfo(np.float32).eps * 4)


@inline
def norm_row(x: Any, weight: Any, y: Any, columns: Any, eps: Any, add: Any) -> None:
    """Normalise the float32 row at address x into y (or x itself); `columns` is a multiple of 16.

    `add` = 1 adds to what y holds (the residual).
    """
    squares = splat_f32(0.0)
    for k in range(0, columns, 16):
        v = vload_f32(x + k * 4)
        squares = fma(v, v, squares)
    mean = sum_lanes(squares) / np.float32(columns)
    factor = splat_f32(np.float32(1) / math.sqrt(mean + np.float32(eps)))
    for k in range(0, columns, 16):
        value = vload_f32(x + k * 4) * factor * vload_f32(weight + k * 4)
        if add != 0:
            value = vload_f32(y + k * 4) + value
        vstore_f32(y + k * 4, value)
