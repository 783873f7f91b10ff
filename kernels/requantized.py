"""Weights for processors that take symmetric integers alone: int8 with a scale per row, or int4 in blocks.

    int8    value = scale[row] * code                                       codes -127 … 127
    int4    value = scale[row, block] * code (+ offset[row, block])         codes -8 … 7, blocks of 32

The offset is how a format with minima keeps its values: with code = q - 8,

    d·q + m = d·(q - 8) + (m + 8·d)     so     W·x = (d·(q - 8))·x + (m + 8·d)·(sums of x's blocks)

and the second product is a thirty-second of the first. So the formats of 4 bits lose nothing in int4; all
others are rounded, by half a step at most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Q4_0, Bytes, Floats, Format


@dataclass(frozen=True, slots=True)
class Requantized:
    """`codes` int8 [rows, columns]; `scales` float32 [rows, 1] or [rows, columns / 32]; `offsets` like
    scales.
    """

    bits: int
    codes: NDArray[np.int8]
    scales: Floats
    offsets: Floats | None = None

    def dequantize(self) -> Floats:
        """float32 [rows, columns]."""
        rows, parts = self.scales.shape
        values = self.codes.reshape(rows, parts, -1).astype(np.float32) * self.scales[..., None]
        if self.offsets is not None:
            values += self.offsets[..., None]
        return values.reshape(rows, -1)


def to_int8(values: Floats) -> Requantized:
    """float32 [rows, columns] to int8, each row by its largest value."""
    largest = np.abs(values).max(1, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return Requantized(8, np.rint(values / scales).astype(np.int8), scales)


def to_int4(format: Format, raw: Bytes, shape: tuple[int, int]) -> Requantized:
    """A matrix of a GGUF format to int4: as it is if it has 4 bits, else rounded as Q4_0 is."""
    if not exact_in_int4(format):
        values = format.dequantize(raw, shape)
        return to_int4(Q4_0, Q4_0.quantize(values), shape)
    parts = format.parts(format.blocks(raw, shape))
    scales, minima = format.grid(parts)
    codes = (parts.codes.reshape(shape).astype(np.int16) - 8).astype(np.int8)
    offsets = None if format.zero == 8 else scales * np.float32(8 - format.zero)
    if minima is not None:
        offsets = minima if offsets is None else offsets + minima
    return Requantized(4, codes, scales, offsets)


def exact_in_int4(format: Format) -> bool:
    """Whether int4 holds a format's values: 4 bits, in blocks of 32."""
    return format.bits == 4 and (format.sub or format.unit) == BLOCK


def error_bound(w: Requantized) -> Floats:
    """float32 [rows, 1]: the largest allowed |requantized - original| of a row's weights: half a step, where
    the ends of int4's grid may take a whole one (8 steps down, 7 up); and the scale's own rounding.
    """
    steps = 0.5 if w.bits == 8 else 1.01
    bound: Floats = (np.abs(w.scales).max(1, keepdims=True) * steps * (1 + 2**-10)).astype(np.float32)
    return bound


def product_reference(w: Requantized, x: Floats) -> Floats:
    """float32 [T, rows] of x float32 [T, columns]; nothing is rounded."""
    return (x.astype(np.float64) @ w.dequantize().astype(np.float64).T).astype(np.float32)


def product_error_bound(w: Requantized, x: Floats) -> float:
    """Largest allowed |implementation - reference| of a product: a float32 sum of `columns` terms, and of as
    many more where blocks have offsets, which do not cancel before they are added.
    """
    size = np.abs(w.codes.astype(np.float32).reshape(*w.scales.shape, -1)).sum(-1) * np.abs(w.scales)
    if w.offsets is not None:
        size = size + np.abs(w.offsets) * (w.codes.shape[1] // w.scales.shape[1])
    return float(np.abs(x).max() * size.sum(1).max() * np.finfo(np.float32).eps * 4)
