"""SwiGLU: y = silu(gate) * up, silu(x) = x / (1 + e**-x) (Shazeer, 2020)."""

from typing import Any

import numpy as np

from .formats import Floats
from .simd import inline, splat_f32, vexp, vload_f32, vstore_f32


def reference(gate: Floats, up: Floats) -> Floats:
    """float32 [T, K] of gate and up, float32 [T, K] each."""
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        y: Floats = (wide / (1 + np.exp(-wide)) * up).astype(np.float32)
        return y


def error_bound(gate: Floats, up: Floats) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest product."""
    return float((np.abs(gate).max() + 1) * np.abs(up).max() * np.finfo(np.float32).eps * 8)


@inline
def swiglu_row(gate: Any, up: Any, y: Any, columns: Any) -> None:
    """One row, float32 at addresses gate and up into y (or into one of them); `columns`: a multiple of 16."""
    one = splat_f32(1.0)
    for k in range(0, columns, 16):
        g = vload_f32(gate + k * 4)
        vstore_f32(y + k * 4, g / (one + vexp(splat_f32(0.0) - g)) * vload_f32(up + k * 4))
