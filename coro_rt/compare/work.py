"""A kernel that takes as long as it is told to, without the GIL and without memory."""

from __future__ import annotations

import time
from functools import cache

import numba

import coro_rt


@numba.njit(nogil=True)
def spin(turns: int) -> int:
    """A chain of multiplications that no compiler can shorten."""
    value = turns
    for _ in range(turns):
        value = value * 6364136223846793005 + 1442695040888963407
    return value


spin_kernel = coro_rt.kernel(spin)


@cache
def turns_per_s() -> float:
    """How many turns of `spin` this CPU makes in a second: the best of some looks."""
    spin(1)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        spin(100_000)
        best = max(best, 100_000 / (time.perf_counter() - began))
    return best


def turns(seconds: float) -> int:
    """How many turns of `spin` take so long."""
    return max(1, round(seconds * turns_per_s()))
