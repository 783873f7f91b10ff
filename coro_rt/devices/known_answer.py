"""A question whose answer is known: what a device that has failed is asked before it runs kernels again.

One product of a quantized matrix, as a step has hundreds, against NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coro_rt.kernels import launch, matmul
from coro_rt.kernels.formats import Format
from coro_rt.kernels.packed import PackedMatrix

ROUGH = 2**12
"""Times the kernel's bound: what is looked for is no rounding, and some NPUs compute in float16."""

_ROWS, _COLUMNS, _COUNT = 48, 128, 3


def answers_rightly(on: Any) -> bool:
    """Whether `on`, a `kernels.launch.Runner` (None: this thread), computes a small product as NumPy does.
    Raises what it raises."""
    rng = np.random.default_rng(20260722)
    w = PackedMatrix.from_float(
        Format.known["Q8_0"], rng.standard_normal((_ROWS, _COLUMNS), dtype=np.float32)
    )
    x = rng.standard_normal((_COUNT, _COLUMNS), dtype=np.float32)
    error = np.abs(launch.matmul(w, x, on=on) - matmul.reference(w, x))
    return bool((error <= ROUGH * matmul.error_bound(w, x)).all())  # a NaN is not
