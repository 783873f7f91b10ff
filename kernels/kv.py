"""The KV cache's pages: keys and values of 64 positions, for all layers, in float16.

A page is laid out [layer][KV head], and for each of those

    K   float16 [4 blocks][head size][16 positions]     16 positions in the lanes of one vector
    V   float16 [64 positions][head size]

A sequence has a table of page addresses; position p lies in page p // 64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .formats import Bytes, Floats
from .memory import aligned_zeros
from .simd import inline, load_f32, store_f16

PAGE_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of a model's cache: layers, KV heads, and the size of one head (a multiple of 16)."""

    layers: int
    heads: int
    head_size: int

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.head_size) < 1 or self.head_size % 16:
            raise ValueError(
                f"a KV cache needs layers, heads and a head size that is a multiple of 16, not {self}"
            )

    @property
    def head_bytes(self) -> int:
        """Bytes of one head's keys and values of one layer in a page."""
        return PAGE_POSITIONS * self.head_size * 4

    @property
    def layer_bytes(self) -> int:
        return self.heads * self.head_bytes

    @property
    def page_bytes(self) -> int:
        return self.layers * self.layer_bytes


def new_page(shape: KVShape) -> Bytes:
    """A page of zeros: positions after a sequence's end are multiplied with zero, so they must be finite."""
    return aligned_zeros(shape.page_bytes)


def read_reference(
    pages: list[Bytes], shape: KVShape, layer: int, head: int, length: int
) -> tuple[Floats, Floats]:
    """(K, V), float32 [length, head size] each, as stored in the pages."""
    n = shape.head_size
    keys, values = [], []
    for page in pages:
        start = layer * shape.layer_bytes + head * shape.head_bytes
        both = page[start : start + shape.head_bytes].view(np.float16).astype(np.float32)
        keys.append(both[: PAGE_POSITIONS * n].reshape(-1, n, 16).transpose(0, 2, 1).reshape(-1, n))
        values.append(both[PAGE_POSITIONS * n :].reshape(-1, n))
    return np.concatenate(keys)[:length], np.concatenate(values)[:length]


@inline
def write_position(head: Any, slot: Any, size: Any, key: Any, value: Any) -> None:
    """Store float32 keys and values (addresses) as position `slot` of the page part at address `head`."""
    k_at = head + (slot // 16) * size * 32 + (slot % 16) * 2
    v_at = head + PAGE_POSITIONS * size * 2 + slot * size * 2
    for i in range(size):
        store_f16(k_at + i * 32, load_f32(key + i * 4))
        store_f16(v_at + i * 2, load_f32(value + i * 4))
