"""What this machine can do at most: bytes read per second, and int8 products per second, by our own best
loops.

The two limits that a matrix product is held against: a product with few rows is bound by the first, with many
by the second (Williams, Waterman and Patterson, "Roofline", 2009).
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .dot import dot_u7s8
from .jit import entry
from .memory import aligned_zeros
from .simd import prefetch, splat_f32, splat_i32, store_f32, sum_lanes, to_f32, vload_f32, vload_u8

_AHEAD = 8192  # bytes between what is asked for and what is used


@entry
def _read(address, nbytes, out):  # type: ignore[no-untyped-def]
    a = b = c = d = splat_f32(0.0)
    for at in range(address, address + nbytes, 256):
        prefetch(at + _AHEAD)
        prefetch(at + _AHEAD + 64)
        prefetch(at + _AHEAD + 128)
        prefetch(at + _AHEAD + 192)
        a = a + vload_f32(at)
        b = b + vload_f32(at + 64)
        c = c + vload_f32(at + 128)
        d = d + vload_f32(at + 192)
    store_f32(out, sum_lanes((a + b) + (c + d)))


@entry
def _multiply(address, rounds, out):  # type: ignore[no-untyped-def]
    a = b = c = d = e = f = g = h = splat_i32(0)
    w = vload_u8(address)
    for at in range(rounds):
        x = address + at % 8 * 4  # as a kernel does: the other operand comes from the first cache
        a = dot_u7s8(a, w, x)
        b = dot_u7s8(b, w, x + 4)
        c = dot_u7s8(c, w, x + 8)
        d = dot_u7s8(d, w, x + 12)
        e = dot_u7s8(e, w, x + 16)
        f = dot_u7s8(f, w, x + 20)
        g = dot_u7s8(g, w, x + 24)
        h = dot_u7s8(h, w, x + 28)
    store_f32(out, sum_lanes(to_f32((a + b) + (c + d) + (e + f) + (g + h))))


def read_bandwidth(threads: int, *, nbytes: int = 512 << 20, repeats: int = 3) -> float:
    """Bytes per second read from memory by so many threads together; the best of `repeats`."""
    share = nbytes // threads // 256 * 256
    block = np.ones(share * threads // 4, np.float32)  # written once, so that every page is there
    start = int(block.ctypes.data)
    works = [_part(_read, start + i * share, share) for i in range(threads)]
    return share * threads / min(_time(works) for _ in range(repeats))


def int8_peak(threads: int, *, rounds: int = 1_000_000, repeats: int = 3) -> float:
    """int8 multiply-adds per second by so many threads together; the best of `repeats`."""
    block = aligned_zeros(128)
    works = [_part(_multiply, int(block.ctypes.data), rounds) for _ in range(threads)]
    return 8 * 64 * rounds * threads / min(_time(works) for _ in range(repeats))


def _part(function: Any, *args: int) -> Callable[[], None]:
    out = aligned_zeros(64)  # a cache line of its own
    return lambda: function(*args, out.ctypes.data)


def _time(works: list[Callable[[], None]]) -> float:
    """Seconds from the first one's beginning to the last one's end, each in a thread of its own."""
    begin = threading.Barrier(len(works))
    spans: list[tuple[float, float]] = []

    def run(work: Callable[[], None]) -> None:
        begin.wait()
        # the clock is read here: a thread that only watched might wake when half of the work is done
        began = time.perf_counter()
        work()
        spans.append((began, time.perf_counter()))

    helpers = [threading.Thread(target=run, args=(work,), name="coro_rt-roofline") for work in works]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    return max(end for _, end in spans) - min(began for began, _ in spans)
