"""Rotary position embedding (Su et al., 2021): pairs of a head's values turn by position * frequency.

Both ways to pair are here: `interleaved` turns (2i, 2i+1), as GGUF's `llama` files are permuted for; `halves`
turns (i, i + n/2). Sines and cosines come from one table, made in float64, which also holds what models do to
reach longer contexts: frequencies divided by a factor each (or one for all: linear scaling, Chen et al.,
2023), and a magnitude for queries and keys (Ding et al., 2024).
"""

from typing import Any

import numpy as np

from .formats import Floats
from .simd import inline, load_f32, store_f32


def table(
    positions: int, width: int, base: float, factors: Floats | float | None = None, *, magnitude: float = 1.0
) -> Floats:
    """float32 [positions, width/2, 2] of (cos, sin) * magnitude; `factors` divide the frequencies."""
    frequencies = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    if factors is not None:
        frequencies = frequencies / factors
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies
    return (np.stack([np.cos(angles), np.sin(angles)], axis=-1) * magnitude).astype(np.float32)


def reference(x: Floats, turns: Floats, *, halves: bool) -> Floats:
    """x float32 [T, heads, n], token t turned by row t of `turns` float32 [T, width/2, 2]; width <= n."""
    width = turns.shape[1] * 2
    y = x.copy()
    cos, sin = turns[:, None, :, 0], turns[:, None, :, 1]
    first, second = (
        (np.s_[..., : width // 2], np.s_[..., width // 2 : width])
        if halves
        else (np.s_[..., 0:width:2], np.s_[..., 1:width:2])
    )
    y[first] = x[first] * cos - x[second] * sin
    y[second] = x[first] * sin + x[second] * cos
    return y


def error_bound(x: Floats) -> float:
    """Largest allowed |implementation - reference|: three roundings."""
    return float(np.abs(x).max() * np.finfo(np.float32).eps * 3)


@inline
def turn_head(x: Any, turns: Any, half: Any, halves: Any) -> None:
    """Turn one head's float32 at address x in place; `turns` is the address of the position's row of the
    table.
    """
    for i in range(half):
        first = x + (i * 4 if halves else i * 8)
        second = first + (half * 4 if halves else 4)
        cos, sin = load_f32(turns + i * 8), load_f32(turns + i * 8 + 4)
        a, b = load_f32(first), load_f32(second)
        store_f32(first, a * cos - b * sin)
        store_f32(second, a * sin + b * cos)
