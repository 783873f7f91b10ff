"""The KV cache's pages: keys and values of 64 positions, for all layers, in float16 or in int8.

A page is laid out [layer][KV head], and for each of those

    K   float16 or int8 [4 blocks][head size][16 positions]     16 positions in the lanes of one vector
    V   float16 or int8 [64 positions][head size]
    and for int8 the scales: float16 [64 positions] of K, then of V

A sequence has a table of page addresses; position p lies in page p // 64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .formats import Bytes, Floats
from .memory import aligned_zeros
from .simd import inline, load_f16, load_f32, max_lanes, splat_f32, store_f16, store_i8, vabs, vload_f32, vmax

PAGE_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of a model's cache: layers, KV heads, the size of one head (a multiple of 16), and the bits of a
    value.
    """

    layers: int
    heads: int
    head_size: int
    bits: int = 16

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.head_size) < 1 or self.head_size % 16:
            raise ValueError(
                f"a KV cache needs layers, heads and a head size that is a multiple of 16, not {self}"
            )
        if self.bits not in (8, 16):
            raise ValueError(f"a KV cache has 8 or 16 bits a value, not {self.bits}")

    @property
    def head_bytes(self) -> int:
        """Bytes of one head's keys and values of one layer in a page."""
        return int(head_bytes(self.head_size, self.bits))  # type: ignore[no-untyped-call]

    @property
    def layer_bytes(self) -> int:
        return self.heads * self.head_bytes

    @property
    def page_bytes(self) -> int:
        return self.layers * self.layer_bytes


def new_page(shape: KVShape) -> Bytes:
    """A page of zeros: positions after a sequence's end are multiplied with zero, so they must be finite."""
    return aligned_zeros(shape.page_bytes)


def head_bytes(size, bits):  # type: ignore[no-untyped-def]
    """Bytes of one head of one layer in a page. Plain integers, so that kernels share it."""
    return PAGE_POSITIONS * size * bits // 4 + (PAGE_POSITIONS * 4 if bits == 8 else 0)


def round_reference(x: Floats, bits: int) -> Floats:
    """float32 [..., n] as the cache gives it back: rounded to float16, or to int8 with a scale for the last
    axis.
    """
    if bits == 16:
        return x.astype(np.float16).astype(np.float32)
    scale = (np.abs(x).max(-1, keepdims=True) * np.float32(1 / 127)).astype(np.float16).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    rounded: Floats = np.clip(np.rint(x * inverse), -127, 127).astype(np.float32) * scale
    return rounded


@inline
def write_position(head: Any, slot: Any, size: Any, bits: Any, key: Any, value: Any) -> None:
    """Store float32 keys and values (addresses) as position `slot` of the page part at address `head`."""
    if bits == 8:
        scales = head + PAGE_POSITIONS * size * 2
        _write_int8(head + (slot // 16) * size * 16 + slot % 16, 16, size, key, scales + slot * 2)
        values = head + PAGE_POSITIONS * size
        _write_int8(values + slot * size, 1, size, value, scales + PAGE_POSITIONS * 2 + slot * 2)
    else:
        k_at = head + (slot // 16) * size * 32 + (slot % 16) * 2
        v_at = head + PAGE_POSITIONS * size * 2 + slot * size * 2
        for i in range(size):
            store_f16(k_at + i * 32, load_f32(key + i * 4))
            store_f16(v_at + i * 2, load_f32(value + i * 4))


@inline
def _write_int8(at: Any, stride: Any, size: Any, x: Any, scale: Any) -> None:
    largest = splat_f32(0.0)
    for i in range(0, size, 16):
        largest = vmax(largest, vabs(vload_f32(x + i * 4)))
    store_f16(scale, max_lanes(largest) * np.float32(1 / 127))
    rounded = load_f16(scale)
    inverse = np.float32(1) / rounded if rounded > np.float32(0) else np.float32(0)
    for i in range(size):
        q = np.rint(load_f32(x + i * 4) * inverse)
        store_i8(at + i * stride, np.int64(min(max(q, np.float32(-127)), np.float32(127))))
