"""Attention over a cache of KV pages: softmax(q·K * scale) · V, causal, in a window or over a whole text.

Positions are taken in splits of 128, cut at fixed places, so that a query's result does not depend on how its
prompt was cut into chunks or who works on it. A split gives a *part*: the weighted sum of V, the largest
score and the sum of the weights; parts are folded together in the order of their positions (online softmax,
Milakov and Gimelshein, 2018). A long context's splits can so be shared out among threads when there are few
queries (Dao et al., flash-decoding, 2023).

Inside a split up to four queries go together, because what costs most is to load K and V and to widen them:
the query heads of one KV head (grouped-query attention), and neighbouring rows. K has 16 positions in the
lanes of a vector. Every sum of a query has one order, whoever is beside it.
"""

from functools import cache
from typing import Any

import numpy as np

from .formats import Floats
from .isa import choose
from .jit import indirect_call, native
from .kv import PAGE_POSITIONS
from .kv import head_bytes as _head_bytes
from .memory import align_up
from .simd import (
    each,
    fma,
    inline,
    keep_first,
    load_f32,
    load_i32,
    load_i64,
    max_lanes,
    prefetch,
    splat_f32,
    sum_lanes,
    vexp,
    vload_f16,
    vload_f32,
    vload_i8_f32,
    vmax,
    vstore_f32,
)

SPLIT = 128
"""Positions of a part: K and V of one head, and the next K, stay in the first-level cache while queries use
them.
"""

ROWS = 4
"""Rows that go together in a long step."""

TOGETHER = 4 if choose() == "avx512-vnni" else 1
"""Queries that go together: as many as the CPU has registers for (4 sums for each)."""


def reference(
    q: Floats, k: Floats, v: Floats, positions: Any, *, window: int = 0, scale: float | None = None
) -> Floats:
    """float32 [T, heads, n] of q [T, heads, n], k and v [length, KV heads, n]; query t sees keys 0 …
    positions[t], with a window only the last `window` of them. `scale` of the scores: default 1/sqrt(n).

    Query heads are shared out among the KV heads in order (grouped-query attention).
    """
    group = q.shape[1] // k.shape[1]
    wide_k = np.repeat(k, group, axis=1).astype(np.float64)
    wide_v = np.repeat(v, group, axis=1).astype(np.float64)
    scores = np.einsum("thn,lhn->thl", q, wide_k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    behind = np.asarray(positions)[:, None] - np.arange(len(k))[None, :]
    hidden = (behind < 0) | (behind >= (window or len(k)))
    scores[np.broadcast_to(hidden[:, None, :], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended: Floats = np.einsum("thl,lhn->thn", weights, wide_v).astype(np.float32)
    return attended


def causal_reference(
    q: Floats, k: Floats, v: Floats, *, window: int = 0, scale: float | None = None
) -> Floats:
    """The same where query t is at position t."""
    return reference(q, k, v, np.arange(len(q)), window=window, scale=scale)


def whole_reference(q: Floats, k: Floats, v: Floats) -> Floats:
    """The same where every query sees every key."""
    return reference(q, k, v, np.full(len(q), len(k) - 1))


def error_bound(q: Floats, k: Floats, v: Floats, *, scale: float | None = None) -> float:
    """Largest allowed |implementation - reference|: float32 scores, exp and sums, relative to the largest
    value.
    """
    n = q.shape[-1]
    score = np.abs(q).max() * np.abs(k).max() * n * (n**-0.5 if scale is None else scale)
    return float((score + 8) * np.abs(v).max() * np.finfo(np.float32).eps * 8)


def part_bytes(size: Any) -> Any:
    """Bytes of a part: float32 [size] weighted sum of V, [16] largest score, [16] sum of the weights."""
    return (size + 32) * 4


def scratch_bytes(heads: int, size: int) -> int:
    """Bytes that a thread needs to work on `ROWS` rows, whatever the number of KV heads."""
    queries = ROWS * heads
    return align_up(TOGETHER * SPLIT * 4 + int((TOGETHER + queries) * part_bytes(size)) + queries * size * 4)


_part_bytes, head_bytes = inline(part_bytes), inline(_head_bytes)
_LEAST = np.float32(-3.0e38)  # below any score
EVERYTHING = 2**31
"""A window that hides nothing."""


@inline
def _load(address, bits):  # type: ignore[no-untyped-def]
    if bits == 8:
        return vload_i8_f32(address)
    return vload_f16(address)


@inline
def _softmax(weights, low, high, first, length, pages, offset, bits, size, scale, part):  # type: ignore[no-untyped-def]
    """Scores of positions low … high-1 at address `weights`, of a query that sees first … length-1, become
    weights: e to the power of how far they are below the largest. That and their sum go into the part.
    """
    scales = offset + PAGE_POSITIONS * size * 2  # int8 only
    top = splat_f32(_LEAST)
    for start in range(low, high, 16):
        at = weights + start % SPLIT * 4
        scores = vload_f32(at) * splat_f32(scale)
        if bits == 8:
            page = load_i64(pages + start // PAGE_POSITIONS * 8)
            scores = scores * vload_f16(page + scales + start % PAGE_POSITIONS * 2)
        if start < first:
            scores = scores + keep_first(splat_f32(_LEAST), first - start, np.float32(0))
        scores = keep_first(scores, length - start, _LEAST)
        vstore_f32(at, scores)
        top = vmax(top, scores)
    maximum = splat_f32(max_lanes(top))
    total = splat_f32(0.0)
    for start in range(low, high, 16):
        at = weights + start % SPLIT * 4
        kept = keep_first(vexp(vload_f32(at) - maximum), length - start, np.float32(0))
        if start < first:
            kept = kept - keep_first(kept, first - start, np.float32(0))
        total = total + kept
        if bits == 8:
            page = load_i64(pages + start // PAGE_POSITIONS * 8)
            kept = kept * vload_f16(page + scales + (PAGE_POSITIONS + start % PAGE_POSITIONS) * 2)
        vstore_f32(at, kept)
    vstore_f32(part + size * 4, maximum)
    vstore_f32(part + size * 4 + 64, splat_f32(sum_lanes(total)))


@inline
def _nothing(weights, low, high, size, part):  # type: ignore[no-untyped-def]
    """The same for a query that sees none of them."""
    for start in range(low, high, 16):
        vstore_f32(weights + start % SPLIT * 4, splat_f32(0.0))
    vstore_f32(part + size * 4, splat_f32(_LEAST))
    vstore_f32(part + size * 4 + 64, splat_f32(0.0))


@inline
def fold(result, part, size):  # type: ignore[no-untyped-def]
    """Add a part to the result so far, which is a part too. One with no weights changes nothing."""
    if load_f32(part + size * 4 + 64) == np.float32(0):
        return
    if load_f32(result + size * 4 + 64) == np.float32(0):
        for i in range(0, size + 32, 16):
            vstore_f32(result + i * 4, vload_f32(part + i * 4))
        return
    mine, theirs = vload_f32(result + size * 4), vload_f32(part + size * 4)
    maximum = vmax(mine, theirs)
    keep, take = vexp(mine - maximum), vexp(theirs - maximum)
    vstore_f32(result + size * 4, maximum)
    for i in range(0, size, 16):
        vstore_f32(result + i * 4, fma(vload_f32(result + i * 4), keep, vload_f32(part + i * 4) * take))
    at = result + size * 4 + 64
    vstore_f32(at, fma(vload_f32(at), keep, vload_f32(part + size * 4 + 64) * take))


@inline
def clear(result, size):  # type: ignore[no-untyped-def]
    """Make it a part with no weights."""
    vstore_f32(result + size * 4 + 64, splat_f32(0.0))


@inline
def finish(result, size, out):  # type: ignore[no-untyped-def]
    """The weighted mean, float32 [size], from the sums."""
    inverse = splat_f32(1.0) / vload_f32(result + size * 4 + 64)
    for i in range(0, size, 16):
        vstore_f32(out + i * 4, vload_f32(result + i * 4) * inverse)


def _make_piece(count: int) -> Any:
    zeros, loads, fma_each, add_each, store_each = each(count)

    @inline
    def piece(  # type: ignore[no-untyped-def]
        queries, nth, group, lengths, plus, window, low, high, reach, pages, offset, size, bits, scale,
        weights, parts,
    ):  # fmt: skip
        """Parts of `count` queries, which see something of low … high-1, from queries[nth] on."""
        width = bits // 8
        v_offset = offset + PAGE_POSITIONS * size * width
        row_bytes = size * width
        query = queries + nth * size * 4
        for start in range(low, high, 16):
            page = load_i64(pages + start // PAGE_POSITIONS * 8)
            k = page + offset + start % PAGE_POSITIONS * row_bytes
            ahead = page + v_offset + start % PAGE_POSITIONS * row_bytes  # as many bytes of V, for later
            a = b = c = d = zeros()
            for i in range(0, size, 4):
                at, x = k + i * 16 * width, query + i * 4
                prefetch(ahead + i * 16 * width)
                prefetch(ahead + i * 16 * width + 64)
                a = fma_each(_load(at, bits), loads(x, size * 4), a)
                b = fma_each(_load(at + 16 * width, bits), loads(x + 4, size * 4), b)
                c = fma_each(_load(at + 32 * width, bits), loads(x + 8, size * 4), c)
                d = fma_each(_load(at + 48 * width, bits), loads(x + 12, size * 4), d)
            store_each(weights + start % SPLIT * 4, SPLIT * 4, add_each(add_each(a, b), add_each(c, d)))
        for j in range(count):
            mine, part = weights + j * SPLIT * 4, parts + j * _part_bytes(size)
            length = load_i32(lengths + (nth + j) // group * 4) + plus
            first = max(length - window, 0)
            if length > low and first < high:
                _softmax(mine, low, high, first, length, pages, offset, bits, size, scale, part)
            else:
                _nothing(mine, low, high, size, part)
        column = 0
        while column + 64 <= size:
            a = b = c = d = zeros()
            for start in range(low, high, 16):
                page = load_i64(pages + start // PAGE_POSITIONS * 8)
                v = page + v_offset + start % PAGE_POSITIONS * row_bytes + column * width
                # the next split's keys, and after the last those of the next head, which is next in the page
                last = start + SPLIT >= reach
                after = start % SPLIT if last else start + SPLIT
                ahead = load_i64(pages + after // PAGE_POSITIONS * 8) + offset
                ahead += after % PAGE_POSITIONS * row_bytes + column * width
                ahead += head_bytes(size, bits) if last else 0
                for slot in range(16):
                    prefetch(ahead + slot * row_bytes)
                    prefetch(ahead + slot * row_bytes + 64)
                    w = loads(weights + (start % SPLIT + slot) * 4, SPLIT * 4)
                    a = fma_each(_load(v, bits), w, a)
                    b = fma_each(_load(v + 16 * width, bits), w, b)
                    c = fma_each(_load(v + 32 * width, bits), w, c)
                    d = fma_each(_load(v + 48 * width, bits), w, d)
                    v += row_bytes
            out = parts + column * 4
            store_each(out, _part_bytes(size), a)
            store_each(out + 64, _part_bytes(size), b)
            store_each(out + 128, _part_bytes(size), c)
            store_each(out + 192, _part_bytes(size), d)
            column += 64
        while column < size:
            a = zeros()
            for start in range(low, high, 16):
                page = load_i64(pages + start // PAGE_POSITIONS * 8)
                v = page + v_offset + start % PAGE_POSITIONS * row_bytes + column * width
                for slot in range(16):
                    w = loads(weights + (start % SPLIT + slot) * 4, SPLIT * 4)
                    a = fma_each(_load(v, bits), w, a)
                    v += row_bytes
            store_each(parts + column * 4, _part_bytes(size), a)
            column += 16

    return piece


_one, _two, _three, _four = (_make_piece(count) for count in range(1, 5))


def _make(bits: int, together: int) -> Any:
    def attend(  # type: ignore[no-untyped-def]
        scale_at, pages, offset, size, group, x, x_stride, rows, lengths, plus, window, first_split,
        last_split, scratch, results,
    ):  # fmt: skip
        """The results of rows * group queries over splits first_split … last_split-1.

        `x`: address of the first row's first query, heads one behind the other; `pages`: of the rows' table
        of page addresses; `offset`: of this layer's and KV head's part of a page; `lengths`: of int32 [rows],
        which with `plus` say how many positions a row sees, or the last `window` of them.
        """
        scale, count = load_f32(scale_at), rows * group
        parts = scratch + together * SPLIT * 4
        queries = parts + together * _part_bytes(size)
        for k in range(count):
            for i in range(0, size, 16):
                query = x + k // group * x_stride + (k % group * size + i) * 4
                vstore_f32(queries + (k * size + i) * 4, vload_f32(query))
            clear(results + k * _part_bytes(size), size)
        for split in range(first_split, last_split):
            nth = 0
            while nth < count:
                some = min(count - nth, together)
                low, reach = EVERYTHING, 0
                for k in range(nth, nth + some):
                    length = load_i32(lengths + k // group * 4) + plus
                    low, reach = min(low, max(length - window, 0)), max(reach, length)
                low, high = max(low // 16 * 16, split * SPLIT), min(reach, (split + 1) * SPLIT)
                if low < high:
                    if together >= 4 and some == 4:
                        _four(
                            queries, nth, group, lengths, plus, window, low, high, reach, pages, offset, size,
                            bits, scale, scratch, parts,
                        )  # fmt: skip
                    elif together >= 3 and some == 3:
                        _three(
                            queries, nth, group, lengths, plus, window, low, high, reach, pages, offset, size,
                            bits, scale, scratch, parts,
                        )  # fmt: skip
                    elif together >= 2 and some == 2:
                        _two(
                            queries, nth, group, lengths, plus, window, low, high, reach, pages, offset, size,
                            bits, scale, scratch, parts,
                        )  # fmt: skip
                    else:
                        _one(
                            queries, nth, group, lengths, plus, window, low, high, reach, pages, offset, size,
                            bits, scale, scratch, parts,
                        )  # fmt: skip
                    for j in range(some):
                        fold(results + (nth + j) * _part_bytes(size), parts + j * _part_bytes(size), size)
                nth += some

    return attend


call_attend = indirect_call(15)
"""call_attend(address, …): see `attend` in `_make`."""


@cache
def address(bits: int) -> int:
    """Where the code for a cache of so many bits is, compiled at the first use."""
    return native(15)(_make(bits, TOGETHER))
