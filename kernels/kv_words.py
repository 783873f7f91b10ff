"""Keys and values as a GPU keeps them: what one page holds of one layer, as words and as arrays.

The layout is that of `wgsl/cache.wgsl`: for each KV head K as [words][64 positions], so that threads that
take a position each read side by side, then V as [64 positions][words], two or four values in a word; for
int8 then the scales of key and value for each position. What is stored is neither rounded nor scaled here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kv import PAGE_POSITIONS, KVShape

Stored = tuple[Any, Any, Any]
"""Keys and values, float16 or int8 [positions, heads, head size], and for int8 their scales, float16 [heads,
2, positions]; else None. See `kv_arrays.put`."""


def unpack(kv: KVShape, data: NDArray[np.uint8]) -> Stored:
    """What whole pages hold that follow each other, uint8 [pages, `layer_bytes`]."""
    pages, size, part = len(data), kv.head_size, kv.head_size * PAGE_POSITIONS * kv.bits // 8
    per, dtype = 32 // kv.bits, np.float16 if kv.bits == 16 else np.int8
    heads = np.ascontiguousarray(data).reshape(pages, kv.heads, kv.head_bytes)
    k = heads[:, :, :part].view(dtype).reshape(pages, kv.heads, size // per, PAGE_POSITIONS, per)
    v = heads[:, :, part : 2 * part].view(dtype).reshape(pages, kv.heads, PAGE_POSITIONS, size)
    shape = pages * PAGE_POSITIONS, kv.heads, size
    scales = None
    if kv.bits == 8:
        pairs = heads[:, :, 2 * part :].view(np.float16).reshape(pages, kv.heads, PAGE_POSITIONS, 2)
        scales = pairs.transpose(1, 3, 0, 2).reshape(kv.heads, 2, -1)
    return k.transpose(0, 3, 1, 2, 4).reshape(shape), v.transpose(0, 2, 1, 3).reshape(shape), scales


def pack(kv: KVShape, k: Any, v: Any, scales: Any) -> NDArray[np.uint8]:
    """The opposite of `unpack`, for whole pages' positions."""
    assert k.shape == v.shape == (len(k), kv.heads, kv.head_size), (k.shape, v.shape, kv)
    assert len(k) % PAGE_POSITIONS == 0, len(k)
    pages, size, part = len(k) // PAGE_POSITIONS, kv.head_size, kv.head_size * PAGE_POSITIONS * kv.bits // 8
    per = 32 // kv.bits
    heads = np.empty((pages, kv.heads, kv.head_bytes), np.uint8)

    def put(place: slice, values: Any) -> None:
        heads[:, :, place] = np.ascontiguousarray(values).view(np.uint8).reshape(pages, kv.heads, -1)

    words = k.reshape(pages, PAGE_POSITIONS, kv.heads, size // per, per)
    put(slice(0, part), words.transpose(0, 2, 3, 1, 4))
    put(slice(part, 2 * part), v.reshape(pages, PAGE_POSITIONS, kv.heads, size).transpose(0, 2, 1, 3))
    if scales is not None:
        pairs = scales.reshape(kv.heads, 2, pages, PAGE_POSITIONS)
        put(slice(2 * part, None), pairs.transpose(2, 0, 3, 1))
    return heads.reshape(pages, kv.layer_bytes)
