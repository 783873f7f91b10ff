"""Weight matrices as the GPU kernels want them: row after row, codes and scales in planes of their own.

    codes   uint32 [rows][blocks][4 or 8]   a block of 32 columns: word j of 4 has columns 4j … 4j+3 in the
                                            low nibbles of its bytes and 16+4j … in the high ones; 8-bit
                                            codes, as signed bytes, take 8 words
                                            F32, F16, BF16: the values themselves
    scales  uint32 [rows][…]                d: float16, two blocks in a word; d and m: a word for each block;
                                            two levels: for each unit of 256 columns a word of d and m, then
                                            four words of eight pairs of bytes: the small scale and minimum
                                            of a block of 32, or the two small scales of its halves
    upper   uint32 [rows][blocks][1 or 2]   the fifth, or fifth and sixth, bits of the codes: bit j of byte k
                                            is column 4j+k's, or bits 2(j%4) … of word j//4

A thread that takes a block of a row reads 16 bytes of codes, its neighbour the next 16.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Bytes, Format, Parts

Words = NDArray[np.uint32]

_AT_ONCE = 1024  # rows that are taken apart, so that little memory is used on the way


@dataclass(frozen=True, slots=True)
class PlanarMatrix:
    """A weight matrix [rows, columns]; `columns` is a multiple of 32. The planes have no columns for formats
    that lack them.
    """

    format: Format
    columns: int
    codes: Words
    scales: Words
    upper: Words

    @property
    def rows(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.upper.nbytes

    @classmethod
    def pack(cls, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> "PlanarMatrix":
        """Stack matrices (raw bytes, shape) of one format and width on top of each other, rows in order.

        ValueError if a part's size and shape disagree, widths differ, or rows do not fill blocks of 32.
        """
        columns = parts[0][1][1]
        if any(shape[1] != columns for _, shape in parts) or columns % BLOCK:
            widths = [shape[1] for _, shape in parts]
            raise ValueError(f"matrices stacked on each other need one width, whole blocks, not {widths}")
        pieces = [
            cls.of_blocks(format, columns, blocks[row : row + _AT_ONCE])
            for blocks in (format.blocks(raw, shape) for raw, shape in parts)
            for row in range(0, len(blocks), _AT_ONCE)
        ]
        planes = ([getattr(piece, name) for piece in pieces] for name in ("codes", "scales", "upper"))
        return cls(format, columns, *(np.concatenate(plane) for plane in planes))

    @classmethod
    def of_blocks(cls, format: Format, columns: int, blocks: NDArray[Any]) -> "PlanarMatrix":
        """Of units [rows, units per row] of a format."""
        if not format.quantized:
            none = np.zeros((len(blocks), 0), np.uint32)
            return cls(format, columns, np.ascontiguousarray(blocks).view(np.uint32), none, none)
        return cls.of_parts(format, format.parts(blocks))

    @classmethod
    def of_parts(cls, format: Format, parts: Parts) -> "PlanarMatrix":
        rows, blocks = parts.codes.shape[:2]
        return cls(
            format, blocks * BLOCK, _codes(format, parts), _scales(format, parts).reshape(rows, -1),
            _upper(format, parts),
        )  # fmt: skip


def _words(array: NDArray[Any], rows: int) -> Words:
    return np.ascontiguousarray(array).reshape(rows, -1).view(np.uint32)


def _codes(format: Format, parts: Parts) -> Words:
    codes = parts.codes
    if format.bits == 8:
        return _words(codes ^ np.uint8(0x80), len(codes))
    return _words((codes[..., :16] & 15) | codes[..., 16:] << 4, len(codes))


def _upper(format: Format, parts: Parts) -> Words:
    rows = len(parts.codes)
    width = format.bits - 4
    if width not in (1, 2):
        return np.zeros((rows, 0), np.uint32)
    operands = parts.codes.reshape(rows, -1, width, 8 // width, 4) >> 4
    shifted = operands << np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return _words(np.bitwise_or.reduce(shifted, axis=-2), rows)


def _scales(format: Format, parts: Parts) -> Words:
    rows, d, m = len(parts.codes), parts.d, parts.m
    if format.sub:
        coarse = np.stack([d, np.zeros_like(d) if m is None else m], axis=-1)
        pairs = [np.asarray(parts.s), np.asarray(parts.n)] if format.has_min else [np.asarray(parts.s)]
        fine = np.stack([pair.reshape(rows, d.shape[1], -1) for pair in pairs], axis=-1).view(np.uint8)
        fine = fine.reshape(rows, d.shape[1], 16)
        both = np.concatenate([coarse.view(np.uint8).reshape(rows, -1, 4), fine], axis=-1)
        return _words(both, rows)
    if m is not None:
        return _words(np.stack([d, m], axis=-1), rows)
    return _words(np.pad(d, ((0, 0), (0, d.shape[1] % 2))), rows)
