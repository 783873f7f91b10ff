"""Gated activations: y = f(gate) * up (Shazeer, 2020).

`silu(x) = x / (1 + e**-x)`; `gelu` is the tanh form, 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), which is
x / (1 + e**-2u) with u the argument of tanh: one loop for both.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from .formats import Floats
from .simd import inline, splat_f32, vexp, vload_f32, vstore_f32


class Activation(IntEnum):
    SILU = 0
    GELU = 1


_GELU = int(Activation.GELU)
_TWICE = 2 * np.sqrt(2 / np.pi)
_CUBE = 0.044715


def reference(gate: Floats, up: Floats, *, activation: Activation) -> Floats:
    """float32 [T, K] of gate and up, float32 [T, K] each."""
    wide = gate.astype(np.float64)
    slope = _TWICE * (wide + _CUBE * wide**3) if activation is Activation.GELU else wide
    with np.errstate(over="ignore"):
        y: Floats = (wide / (1 + np.exp(-slope)) * up).astype(np.float32)
        return y


def error_bound(gate: Floats, up: Floats) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest product."""
    return float((np.abs(gate).max() + 1) * np.abs(up).max() * np.finfo(np.float32).eps * 8)


@inline
def gated_row(gate: Any, up: Any, y: Any, columns: Any, activation: Any) -> None:
    """One row, float32 at addresses gate and up into y (or into one of them); `columns`: a multiple of 16."""
    one = splat_f32(1.0)
    if activation == _GELU:
        for k in range(0, columns, 16):
            g = vload_f32(gate + k * 4)
            slope = g * splat_f32(_TWICE) * (one + g * g * splat_f32(_CUBE))
            vstore_f32(y + k * 4, g / (one + vexp(splat_f32(0.0) - slope)) * vload_f32(up + k * 4))
    else:
        for k in range(0, columns, 16):
            g = vload_f32(gate + k * 4)
            vstore_f32(y + k * 4, g / (one + vexp(splat_f32(0.0) - g)) * vload_f32(up + k * 4))
