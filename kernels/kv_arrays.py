"""The KV cache's pages read and written as arrays: how keys and values that were made elsewhere get there.

Each position gets the bytes that `kv.write_position` would give it, so who goes on from a page cannot tell
who wrote it.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kv import PAGE_POSITIONS, KVShape

Halves = NDArray[np.float16]


def write(kv: KVShape, table: NDArray[np.int64], layer: int, start: int, k: Any, v: Any) -> None:
    """Put keys and values, float16 or float32 [n, heads, head size], at the positions from `start` on.

    `table`: addresses of the sequence's pages, which must be there and stay there.
    """
    assert k.shape == v.shape == (len(k), kv.heads, kv.head_size), (k.shape, v.shape, kv)
    scales = None
    if kv.bits == 8:
        (k, k_scales), (v, v_scales) = _to_int8(k), _to_int8(v)
        scales = np.stack((k_scales, v_scales), 1)
    put(kv, table, layer, start, k, v, scales)


def put(kv: KVShape, table: NDArray[np.int64], layer: int, start: int, k: Any, v: Any, scales: Any) -> None:
    """The same with what is stored: float16; or int8, with scales, float16 [heads, 2, n] (K, V)."""
    for page, slots, rows in _spans(table, start, start + len(k)):
        keys, values, page_scales = _views(kv, page, layer)
        keys[:, slots // 16, :, slots % 16] = k[rows]
        values[:, slots] = v[rows].transpose(1, 0, 2)
        if kv.bits == 8:
            page_scales[:, :, slots] = scales[:, :, rows]


def take(kv: KVShape, table: NDArray[np.int64], layer: int, stop: int, length: int) -> tuple[Any, Any, Any]:
    """What is stored at the positions before `stop`, as `put` takes it, and zeros up to `length`."""
    k = np.zeros((length, kv.heads, kv.head_size), np.float16 if kv.bits == 16 else np.int8)
    v = np.zeros_like(k)
    scales = np.zeros((kv.heads, 2, length), np.float16) if kv.bits == 8 else None
    for page, slots, rows in _spans(table, 0, stop):
        keys, values, page_scales = _views(kv, page, layer)
        k[rows] = keys[:, slots // 16, :, slots % 16]
        v[rows] = values[:, slots].transpose(1, 0, 2)
        if scales is not None:
            scales[:, :, rows] = page_scales[:, :, slots]
    return k, v, scales


def read(kv: KVShape, table: NDArray[np.int64], layer: int, stop: int, k: Halves, v: Halves) -> None:
    """Keys and values of the positions before `stop` into the first rows of k and v, float16 [.., heads,
    head size].
    """
    k[:stop], v[:stop], scales = take(kv, table, layer, stop, stop)
    if scales is not None:
        k[:stop] *= scales[:, 0].T[..., None]
        v[:stop] *= scales[:, 1].T[..., None]


def _spans(table: NDArray[np.int64], start: int, stop: int) -> Iterator[tuple[int, NDArray[np.int64], slice]]:
    """Page by page: its address, the slots in it, and which of the rows these are."""
    assert 0 <= start <= stop <= len(table) * PAGE_POSITIONS, (start, stop, len(table))
    at = start
    while at < stop:
        number, slot = divmod(at, PAGE_POSITIONS)
        count = min(PAGE_POSITIONS - slot, stop - at)
        yield int(table[number]), np.arange(slot, slot + count), slice(at - start, at - start + count)
        at += count


def _views(kv: KVShape, page: int, layer: int) -> tuple[Any, Any, Any]:
    """One layer of a page: K [heads, 4, size, 16], V [heads, 64, size], scales float16 [heads, 2, 64]."""
    memory = (ctypes.c_uint8 * kv.layer_bytes).from_address(page + layer * kv.layer_bytes)
    heads = np.ctypeslib.as_array(memory).reshape(kv.heads, kv.head_bytes)
    dtype = np.float16 if kv.bits == 16 else np.int8
    nbytes = PAGE_POSITIONS * kv.head_size * kv.bits // 8
    keys = heads[:, :nbytes].view(dtype).reshape(kv.heads, PAGE_POSITIONS // 16, kv.head_size, 16)
    values = heads[:, nbytes : 2 * nbytes].view(dtype).reshape(kv.heads, PAGE_POSITIONS, kv.head_size)
    return keys, values, heads[:, 2 * nbytes :].view(np.float16).reshape(kv.heads, -1, PAGE_POSITIONS)


def _to_int8(x: Any) -> tuple[NDArray[np.int8], Halves]:
    """Codes [n, heads, size], and scales [heads, n]."""
    wide = x.astype(np.float32)
    scales = (np.abs(wide).max(-1) * np.float32(1 / 127)).astype(np.float16)
    inverse = np.divide(np.float32(1), scales, out=np.zeros(scales.shape, np.float32), where=scales > 0)
    codes = np.clip(np.rint(wide * inverse[..., None]), -127, 127).astype(np.int8)
    return codes, scales.T
