"""Memory that kernels may address: aligned to a cache line, and zeroed where the padding is read."""

import numpy as np

from .formats import Bytes

CACHE_LINE = 64


def align_up(nbytes: int, to: int = CACHE_LINE) -> int:
    return -(-nbytes // to) * to


def aligned_empty(nbytes: int) -> Bytes:
    """uint8 [nbytes] that starts on a cache line; its contents are whatever was there."""
    raw = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + nbytes]


def aligned_zeros(nbytes: int) -> Bytes:
    """uint8 [nbytes] of zeros that starts on a cache line."""
    raw = np.zeros(nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + nbytes]
