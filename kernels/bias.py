"""A bias: the same row added to every row, after a matrix product that has one."""

from typing import Any

import numpy as np

from .formats import Floats
from .simd import inline, vload_f32, vstore_f32


def reference(x: Floats, bias: Floats) -> Floats:
    """float32 [T, K] of x float32 [T, K] and bias float32 [K]."""
    return x + bias


def error_bound(x: Floats, bias: Floats) -> float:
    """Largest allowed |implementation - reference|: one rounding."""
    return float((np.abs(x).max() + np.abs(bias).max()) * np.finfo(np.float32).eps)


@inline
def add_row(x: Any, bias: Any, columns: Any) -> None:
    """Add the float32 row at address bias to the one at x; `columns` is a multiple of 16."""
    for k in range(0, columns, 16):
        vstore_f32(x + k * 4, vload_f32(x + k * 4) + vload_f32(bias + k * 4))
