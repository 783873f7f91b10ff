"""Pooling: a text's rows become one row of length 1, their mean divided by its Euclidean norm."""

import math
from typing import Any

import numpy as np

from .formats import Floats
from .simd import fma, inline, splat_f32, sum_lanes, vload_f32, vstore_f32


def reference(x: Floats, spans: list[tuple[int, int]]) -> Floats:
    """float32 [texts, K]: text i is rows first … first + count - 1 of x float32 [T, K], (first, count) =
    spans[i].
    """
    means = np.stack([x[first : first + count].astype(np.float64).mean(0) for first, count in spans])
    norms = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    pooled: Floats = (means / norms).astype(np.float32)
    return pooled


def error_bound(x: Floats, spans: list[tuple[int, int]]) -> float:
    """Largest allowed |implementation - reference|: roundings of the rows' sum, in units of its norm."""
    smallest = min(float(np.linalg.norm(x[first : first + count].sum(0))) for first, count in spans)
    largest = max(float(np.abs(x[first : first + count]).sum(0).max()) for first, count in spans)
    return float((largest / max(smallest, 1e-12) + 1) * np.finfo(np.float32).eps * 8)


@inline
def pool_rows(x: Any, stride: Any, count: Any, y: Any, columns: Any) -> None:
    """`count` float32 rows from address x on, `stride` bytes apart, into y; `columns`: a multiple of 16."""
    inverse = splat_f32(np.float32(1) / np.float32(count))
    squares = splat_f32(0.0)
    for k in range(0, columns, 16):
        total = splat_f32(0.0)
        for row in range(count):
            total = total + vload_f32(x + row * stride + k * 4)
        mean = total * inverse
        vstore_f32(y + k * 4, mean)
        squares = fma(mean, mean, squares)
    factor = splat_f32(np.float32(1) / max(np.float32(math.sqrt(sum_lanes(squares))), np.float32(1e-12)))
    for k in range(0, columns, 16):
        vstore_f32(y + k * 4, vload_f32(y + k * 4) * factor)
