"""Weight matrices as the CPU kernels want them: 16 rows interleaved, the same number of bytes as in the file.

Rows go in groups of 16, padded with zeros. Inside a group, plane after plane, each aligned to 64 bytes:

    quantized   d   float16 [blocks][16 rows]
                m   float16 [blocks][16 rows]                          only if the format has a minimum
                q   4 bits: uint8 [blocks][4][16 rows][4]  byte [b][j][r][k]: low nibble column 4j+k, high
                16+4j+k
                    8 bits: uint8 [blocks][8][16 rows][4]  byte [b][j][r][k]: column 4j+k
    F16, F32        [columns][16 rows]

so that 64 bytes hold the same four columns of 16 rows: one operand of a 16-lane integer dot product.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Bytes, Floats, Format
from .memory import align_up, aligned_empty
from .simd import LANES


class PackedMatrix:
    """A weight matrix [rows, columns], repacked once; read-only afterwards.

    `address` stays valid as long as this object lives.
    """

    def __init__(self, format: Format, rows: int, columns: int) -> None:
        format.row_bytes(columns)
        self.format, self.rows, self.columns = format, rows, columns
        self.groups = -(-rows // LANES)
        blocks = columns // format.block_values
        if format.quantized:
            self.d_bytes = align_up(blocks * LANES * 2)
            self.m_bytes = self.d_bytes if format.has_min else 0
            self.group_bytes = self.d_bytes + self.m_bytes + blocks * LANES * BLOCK * format.bits // 8
        else:
            self.d_bytes = self.m_bytes = 0
            self.group_bytes = align_up(columns * LANES * format.bits // 8)
        self.data = aligned_empty(self.groups * self.group_bytes)
        self.address = int(self.data.ctypes.data)

    @classmethod
    def pack(cls, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> "PackedMatrix":
        """Stack matrices (raw bytes, shape) of one format and width on top of each other, rows in order.

        ValueError if a part's size and shape disagree, or widths differ.
        """
        columns = parts[0][1][1]
        if any(shape[1] != columns for _, shape in parts):
            raise ValueError(f"matrices stacked on each other need one width, not {[s[1] for _, s in parts]}")
        packed = cls(format, sum(shape[0] for _, shape in parts), columns)
        row = 0
        for raw, shape in parts:
            packed._fill(row, format.blocks(raw, shape))
            row += shape[0]
        packed._fill(row, np.zeros((-row % LANES, packed.columns // format.block_values), format.block))
        packed.data.flags.writeable = False
        return packed

    @classmethod
    def from_float(cls, format: Format, values: Floats) -> "PackedMatrix":
        """Quantize float32 [rows, columns] and pack it."""
        rows, columns = values.shape
        return cls.pack(format, (format.quantize(values), (rows, columns)))

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def dequantize(self) -> Floats:
        """float32 [rows, columns]: what the kernels compute with."""
        groups = self._planes()
        if not self.format.quantized:
            return groups["q"].astype(np.float32).transpose(0, 2, 1).reshape(-1, self.columns)[: self.rows]
        q = groups["q"]  # [groups, blocks, j, 16, 4]
        if self.format.bits == 4:
            q = np.concatenate([q & 15, q >> 4], axis=2)
        values = q.transpose(0, 3, 1, 2, 4).astype(np.float32).reshape(self.groups, LANES, -1, BLOCK)
        values -= np.float32(self.format.zero)
        values *= groups["d"].transpose(0, 2, 1)[..., None].astype(np.float32)
        if self.format.has_min:
            values += groups["m"].transpose(0, 2, 1)[..., None].astype(np.float32)
        return values.reshape(-1, self.columns)[: self.rows]

    def _planes(self) -> dict[str, NDArray[Any]]:
        grouped = self.data.reshape(self.groups, self.group_bytes)
        blocks = self.columns // self.format.block_values
        if not self.format.quantized:
            width = self.columns * LANES * self.format.bits // 8
            return {"q": grouped[:, :width].view(self.format.block).reshape(self.groups, self.columns, LANES)}
        used, start = blocks * LANES * 2, self.d_bytes + self.m_bytes
        planes = {
            "d": grouped[:, :used],
            "m": grouped[:, self.d_bytes : self.d_bytes + used],
            "q": grouped[:, start:],
        }
        return {
            "d": planes["d"].view(np.float16).reshape(self.groups, blocks, LANES),
            "m": planes["m"].view(np.float16).reshape(self.groups, blocks, LANES)
            if self.m_bytes
            else planes["m"],
            "q": planes["q"].reshape(self.groups, blocks, self.format.bits, LANES, 4),
        }

    def _fill(self, row: int, blocks: NDArray[Any]) -> None:
        """Put rows (as blocks of the format) at `row`, a few at a time so that little memory is used on the
        way.
        """
        planes = self._planes()
        at = 0
        while at < len(blocks):
            group, lane = divmod(row + at, LANES)
            # whole groups at once where possible, else up to the end of this group
            count = (
                min(LANES - lane, len(blocks) - at)
                if lane
                else min(len(blocks) - at, 64 * LANES) // LANES * LANES
            )
            count = count or len(blocks) - at
            part = blocks[at : at + count]
            lanes = slice(lane, lane + min(count, LANES))
            groups = slice(group, group + max(count // LANES, 1))
            shape = (groups.stop - group, lanes.stop - lane)
            if not self.format.quantized:
                planes["q"][groups, :, lanes] = part.reshape(*shape, -1).transpose(0, 2, 1)
            else:
                bytes_ = self.format.integers(part) if self.format.bits == 8 else part["q"]
                quads = bytes_.reshape(*shape, part.shape[1], self.format.bits, 4)
                planes["q"][groups, :, :, lanes] = quads.transpose(0, 2, 3, 1, 4)
                planes["d"][groups, :, lanes] = part["d"].reshape(*shape, -1).transpose(0, 2, 1)
                if self.format.has_min:
                    planes["m"][groups, :, lanes] = part["m"].reshape(*shape, -1).transpose(0, 2, 1)
            at += count
