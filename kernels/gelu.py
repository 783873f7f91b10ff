"""GELU: y = x * P(X <= x) of a standard normal X, after a bias (Hendrycks and Gimpel, 2016).

The exact form, not the one with tanh. P comes from erfc's approximation 7.1.26 in Abramowitz and Stegun,
*Handbook of Mathematical Functions* (1964), whose absolute error is 1.5e-7: about float32's own. It is used
on the side where P is small, so that nothing cancels: y = max(x, 0) - |x| * P(X > |x|).
"""

import math
from typing import Any

import numpy as np

from .formats import Floats
from .simd import fma, inline, splat_f32, vabs, vexp, vload_f32, vmax, vstore_f32


def reference(x: Floats, shift: Floats) -> Floats:
    """float32 [T, K] of x float32 [T, K] plus shift float32 [K]."""
    wide = x.astype(np.float64) + shift
    y: Floats = (wide * 0.5 * np.vectorize(math.erfc)(-wide / math.sqrt(2))).astype(np.float32)
    return y


def error_bound(x: Floats, shift: Floats) -> float:
    """Largest allowed |implementation - reference|: a few roundings of the largest input."""
    return float((np.abs(x).max() + np.abs(shift).max() + 1) * np.finfo(np.float32).eps * 4)


@inline
def gelu_row(x: Any, shift: Any, y: Any, columns: Any) -> None:
    """One row, float32 at address x plus the one at `shift`, into y, which may be x; `columns`: a multiple of
    16.
    """
    zero, one = splat_f32(0.0), splat_f32(1.0)
    for k in range(0, columns, 16):
        v = vload_f32(x + k * 4) + vload_f32(shift + k * 4)
        size = vabs(v)
        z = size * splat_f32(0.7071067811865476)
        t = one / fma(z, splat_f32(0.3275911), one)
        p = fma(t, splat_f32(1.061405429), splat_f32(-1.453152027))
        p = fma(p, t, splat_f32(1.421413741))
        p = fma(p, t, splat_f32(-0.284496736))
        p = fma(p, t, splat_f32(0.254829592))
        tail = p * t * vexp(zero - z * z) * splat_f32(0.5)
        vstore_f32(y + k * 4, vmax(v, zero) - size * tail)
