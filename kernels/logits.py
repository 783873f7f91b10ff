"""What is asked of a row of logits: the best token, and the log of the sum of exponentials (for
log-probabilities).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import Floats
from .simd import inline, load_f32, max_lanes, splat_f32, sum_lanes, vexp, vload_f32, vmax


def reference(logits: Floats) -> tuple[NDArray[np.int64], Floats]:
    """(best token [T], the first of equals; log Σ exp [T]) of float32 [T, vocabulary]."""
    wide = logits.astype(np.float64)
    top = wide.max(-1)
    return logits.argmax(-1), (top + np.log(np.exp(wide - top[:, None]).sum(-1))).astype(np.float32)


def error_bound(logits: Floats) -> float:
    """Largest allowed |implementation - reference| of the log-sum."""
    return float((np.abs(logits).max() + 16) * np.finfo(np.float32).eps * 8)


@inline
def summarize(logits: Any, count: Any) -> Any:
    """(best token, log Σ exp) of `count` float32 at address `logits`."""
    top = splat_f32(-3.0e38)
    whole = count // 16 * 16
    for k in range(0, whole, 16):
        top = vmax(vload_f32(logits + k * 4), top)
    maximum = max_lanes(top)
    for k in range(whole, count):
        maximum = max(maximum, load_f32(logits + k * 4))
    total = splat_f32(0.0)
    for k in range(0, whole, 16):
        total = total + vexp(vload_f32(logits + k * 4) - splat_f32(maximum))
    tail = np.float32(0)
    for k in range(whole, count):
        tail += np.float32(math.exp(load_f32(logits + k * 4) - maximum))
    best = np.int64(0)
    while best < count - 1 and load_f32(logits + best * 4) != maximum:
        best += 1
    return best, maximum + np.float32(math.log(sum_lanes(total) + tail))
