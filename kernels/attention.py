"""Causal attention of one query head over its KV pages, all of them or a window: softmax(q·K * scale) · V.

Three passes over a row of scores: q·K with 16 positions in the lanes of a vector, exp and sum, then the
weighted sum of the rows of V in the order of their positions. Each sum has one order, which depends on the
position alone, so a query's result does not depend on how its prompt was cut into chunks.
"""

from typing import Any

import numpy as np

from .formats import Floats
from .kv import PAGE_POSITIONS
from .simd import (
    fma,
    inline,
    keep_first,
    load_f32,
    load_i64,
    max_lanes,
    splat_f32,
    sum_lanes,
    vexp,
    vload_f16,
    vload_f32,
    vload_i8_f32,
    vmax,
    vstore_f32,
)


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


@inline
def _load(address, bits):  # type: ignore[no-untyped-def]
    if bits == 8:
        return vload_i8_f32(address)
    return vload_f16(address)


@inline
def attend(q, pages, offset, first, length, size, bits, scale, scratch, out):  # type: ignore[no-untyped-def]
    """One query head at address q over positions first … length-1, into out (float32 [size]).

    `pages`: address of the table of page addresses; `offset`: of this layer's and head's part in a page;
    `bits` of its values: a constant, so that the choice is made when this is compiled.
    """
    width = bits // 8
    scales = offset + PAGE_POSITIONS * size * 2  # int8 only
    top = splat_f32(-3.0e38)
    begin = first // 16 * 16
    for start in range(begin, length, 16):
        page = load_i64(pages + (start // PAGE_POSITIONS) * 8)
        k = page + offset + ((start % PAGE_POSITIONS) // 16) * size * 16 * width
        a = b = c = d = splat_f32(0.0)
        for i in range(0, size, 4):
            a = fma(_load(k + (i) * 16 * width, bits), splat_f32(load_f32(q + i * 4)), a)
            b = fma(_load(k + (i + 1) * 16 * width, bits), splat_f32(load_f32(q + i * 4 + 4)), b)
            c = fma(_load(k + (i + 2) * 16 * width, bits), splat_f32(load_f32(q + i * 4 + 8)), c)
            d = fma(_load(k + (i + 3) * 16 * width, bits), splat_f32(load_f32(q + i * 4 + 12)), d)
        scores = ((a + b) + (c + d)) * splat_f32(scale)
        if bits == 8:
            scores = scores * vload_f16(page + scales + start % PAGE_POSITIONS * 2)
        vstore_f32(scratch + start * 4, scores)
        if start < first:  # lanes before the window: far below any other
            scores = scores + keep_first(splat_f32(-3.0e38), first - start, np.float32(0))
        top = vmax(top, keep_first(scores, length - start, np.float32(-3.0e38)))
    maximum = splat_f32(max_lanes(top))
    total = splat_f32(0.0)
    for start in range(begin, length, 16):
        weights = keep_first(vexp(vload_f32(scratch + start * 4) - maximum), length - start, np.float32(0))
        if start < first:
            weights = weights - keep_first(weights, first - start, np.float32(0))
        total = total + weights
        if bits == 8:
            page = load_i64(pages + (start // PAGE_POSITIONS) * 8)
            weights = weights * vload_f16(page + scales + (PAGE_POSITIONS + start % PAGE_POSITIONS) * 2)
        vstore_f32(scratch + start * 4, weights)
    inverse = splat_f32(np.float32(1) / sum_lanes(total))
    v_offset = offset + PAGE_POSITIONS * size * width
    column = 0
    while column + 64 <= size:
        a = b = c = d = splat_f32(0.0)
        for position in range(first, length):
            page = load_i64(pages + (position // PAGE_POSITIONS) * 8)
            v = page + v_offset + (position % PAGE_POSITIONS) * size * width + column * width
            w = splat_f32(load_f32(scratch + position * 4))
            a = fma(_load(v, bits), w, a)
            b = fma(_load(v + 16 * width, bits), w, b)
            c = fma(_load(v + 32 * width, bits), w, c)
            d = fma(_load(v + 48 * width, bits), w, d)
        vstore_f32(out + column * 4, a * inverse)
        vstore_f32(out + column * 4 + 64, b * inverse)
        vstore_f32(out + column * 4 + 128, c * inverse)
        vstore_f32(out + column * 4 + 192, d * inverse)
        column += 64
    while column < size:
        a = splat_f32(0.0)
        for position in range(first, length):
            page = load_i64(pages + (position // PAGE_POSITIONS) * 8)
            v = page + v_offset + (position % PAGE_POSITIONS) * size * width + column * width
            a = fma(_load(v, bits), splat_f32(load_f32(scratch + position * 4)), a)
        vstore_f32(out + column * 4, a * inverse)
        column += 16
