"""Keys and values as a GPU keeps them: what one page holds of one layer, as words and as arrays.

The layout is that of `wgsl/cache.wgsl`: for each KV head K as [size/2][64 positions][2], so that threads that
take a position each read side by side, then V as [64 positions][size], all in float16.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kv import PAGE_POSITIONS, KVShape

Halves = NDArray[np.float16]


def page_layer_bytes(kv: KVShape) -> int:
    """Bytes of one layer in a page."""
    return PAGE_POSITIONS * kv.heads * kv.head_size * 4


def unpack(kv: KVShape, data: NDArray[np.uint8]) -> tuple[Halves, Halves]:
    """Keys and values, float16 [positions, heads, head size], of whole pages that follow each other, uint8
    [pages, `page_layer_bytes`]."""
    pages = len(data)
    heads = np.ascontiguousarray(data).view(np.float16).reshape(pages, kv.heads, 2, -1)
    k = heads[:, :, 0].reshape(pages, kv.heads, kv.head_size // 2, PAGE_POSITIONS, 2)
    v = heads[:, :, 1].reshape(pages, kv.heads, PAGE_POSITIONS, kv.head_size)
    shape = pages * PAGE_POSITIONS, kv.heads, kv.head_size
    return k.transpose(0, 3, 1, 2, 4).reshape(shape), v.transpose(0, 2, 1, 3).reshape(shape)


def pack(kv: KVShape, k: Halves, v: Halves) -> NDArray[np.uint8]:
    """The opposite of `unpack`: whole pages' positions, as words in bytes."""
    assert k.shape == v.shape == (len(k), kv.heads, kv.head_size), (k.shape, v.shape, kv)
    assert len(k) % PAGE_POSITIONS == 0, len(k)
    pages = len(k) // PAGE_POSITIONS
    heads: Any = np.empty((pages, kv.heads, 2, PAGE_POSITIONS * kv.head_size), np.float16)
    pairs = k.reshape(pages, PAGE_POSITIONS, kv.heads, kv.head_size // 2, 2)
    heads[:, :, 0] = pairs.transpose(0, 2, 3, 1, 4).reshape(pages, kv.heads, -1)
    rows = v.reshape(pages, PAGE_POSITIONS, kv.heads, kv.head_size)
    heads[:, :, 1] = rows.transpose(0, 2, 1, 3).reshape(pages, kv.heads, -1)
    data: NDArray[np.uint8] = heads.view(np.uint8).reshape(pages, page_layer_bytes(kv))
    return data
