"""Memory that kernels may address: aligned to a cache line, and zeroed where the padding is read.

Large pieces are mapped one by one, so that the system has them back as soon as nobody holds them: the
allocator of the C library keeps what it once had, a whole model after it was closed.
"""

import mmap

import numpy as np

from .formats import Bytes

CACHE_LINE = 64
LARGE = 64 * 1024  # bytes
HUGE = 4 * 2**20  # from here on huge pages are worth asking for, as NumPy does


def align_up(nbytes: int, to: int = CACHE_LINE) -> int:
    return -(-nbytes // to) * to


def aligned_empty(nbytes: int) -> Bytes:
    """uint8 [nbytes] that starts on a cache line; its contents are whatever was there."""
    return _mapped(nbytes) if nbytes >= LARGE else _aligned(np.empty(nbytes + CACHE_LINE, np.uint8))


def aligned_zeros(nbytes: int) -> Bytes:
    """uint8 [nbytes] of zeros that starts on a cache line."""
    return _mapped(nbytes) if nbytes >= LARGE else _aligned(np.zeros(nbytes + CACHE_LINE, np.uint8))


class Arena:
    """One piece of memory for many arrays that are read one after the other, such as a model's matrices.

    Matrices are often smaller than the system's huge pages, and whoever streams through memory gains some
    percent where pages are large. The memory goes back with the last array.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = aligned_empty(nbytes)

    def empty(self, nbytes: int) -> Bytes:
        """Like `aligned_empty`, of the piece as long as there is some left, and elsewhere afterwards."""
        taken = align_up(nbytes)
        if taken > self._left.nbytes:
            return aligned_empty(nbytes)
        found, self._left = self._left[:nbytes], self._left[taken:]
        return found


def _aligned(raw: Bytes) -> Bytes:
    """All of `raw` but a cache line, from where one starts."""
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + len(raw) - CACHE_LINE]


def _mapped(nbytes: int) -> Bytes:
    """uint8 [nbytes] of zeros, which the system fills in as they are touched; gone with the last view."""
    try:
        mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except AttributeError:  # Windows
        mapped = mmap.mmap(-1, nbytes)
    if nbytes >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, np.uint8)
