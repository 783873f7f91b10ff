"""Weight matrices as the CPU kernels want them: 16 rows interleaved, about as many bytes as in the file.

Rows go in groups of 16, padded with zeros. Inside a group lie planes, in this order, each aligned to 64
bytes:

    d   float16 [units][16 rows]                       quantized formats
    m   float16 [units][16 rows]                       if the format has a minimum
    s   int8 or uint8 [subs][16 rows]                  if the format has two levels: the small scales
    n   uint8 [subs][16 rows]                          … and small minima
    h   uint8 [blocks][1 or 2][16 rows][4]             the fifth, or fifth and sixth, bits of the codes
    q   uint8 [blocks][4][16 rows][4]                  4 lower bits: low nibble column 4j+k, high nibble
    16+4j+k
        uint8 [blocks][8][16 rows][4]                  8 bits: column 4j+k
        float [columns][16 rows]                       F32, F16, BF16

so that 64 bytes of q hold the same four columns of 16 rows: one operand of a 16-lane integer dot product.
Operand j of a block is columns 4j … 4j+3. Its upper bits are bit j of h's bytes (one bit), or bits 2(j%4) …
of its byte j//4 (two).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import BLOCK, Bytes, Floats, Format, Parts
from .memory import aligned_empty
from .simd import LANES


def plane_offsets(columns, unit, sub, bits, has_min):  # type: ignore[no-untyped-def]
    """Where planes m, s, n, h, q start in a group, and the group's bytes; plane d starts at 0. For any
    `Format`.

    Plain integers, so that numba can compile it: kernels and packing share one truth.
    """
    quantized = bits <= 8
    low_bits = 4 if bits < 8 else bits
    d_bytes = (columns // unit * 32 + 63) // 64 * 64 if quantized else 0
    m_bytes = d_bytes if has_min else 0
    s_bytes = (columns // max(sub, 1) * 16 + 63) // 64 * 64 if sub > 0 else 0
    n_bytes = s_bytes if has_min else 0
    m_at = d_bytes
    s_at = m_at + m_bytes
    n_at = s_at + s_bytes
    h_at = n_at + n_bytes
    q_at = h_at + columns * 2 * (bits - low_bits)
    return m_at, s_at, n_at, h_at, q_at, (q_at + columns * 2 * low_bits + 63) // 64 * 64


class PackedMatrix:
    """A weight matrix [rows, columns], repacked once; read-only afterwards.

    `address` stays valid as long as this object lives.
    """

    def __init__(
        self, format: Format, rows: int, columns: int, empty: Callable[[int], Bytes] = aligned_empty
    ) -> None:
        format.row_bytes(columns)
        self.format, self.rows, self.columns = format, rows, columns
        self.groups = -(-rows // LANES)
        *self._starts, self.group_bytes = plane_offsets(  # type: ignore[no-untyped-call]
            columns, format.unit, format.sub, format.bits, format.has_min
        )
        self.data = empty(self.groups * self.group_bytes)
        self.address = int(self.data.ctypes.data)

    @classmethod
    def pack(
        cls,
        format: Format,
        *parts: tuple[Bytes, tuple[int, int]],
        empty: Callable[[int], Bytes] = aligned_empty,
    ) -> "PackedMatrix":
        """Stack matrices (raw bytes, shape) of one format and width on top of each other, rows in order.

        `empty` gives the memory, on a cache line. ValueError if a part's size and shape disagree, or widths
        differ.
        """
        columns = parts[0][1][1]
        if any(shape[1] != columns for _, shape in parts):
            raise ValueError(f"matrices stacked on each other need one width, not {[s[1] for _, s in parts]}")
        packed = cls(format, sum(shape[0] for _, shape in parts), columns, empty)
        row = 0
        for raw, shape in parts:
            packed._fill(row, format.blocks(raw, shape))
            row += shape[0]
        packed._fill(row, np.zeros((-row % LANES, columns // format.unit), format.block))
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
        form = self.format
        if form.quantized:
            return form.assemble(self.parts())
        raw = np.ascontiguousarray(self.values()).view(np.uint8).reshape(-1)
        return form.dequantize(raw, (self.rows, self.columns))

    def values(self) -> NDArray[Any]:
        """[rows, columns] of a floating-point format, as it is stored."""
        assert not self.format.quantized
        values: NDArray[Any] = self._planes()["q"].transpose(0, 2, 1).reshape(-1, self.columns)
        return values[: self.rows]

    def parts(self) -> Parts:
        """A quantized matrix taken apart: what `Format.parts` gave when it was packed."""
        form, planes = self.format, self._planes()
        q = planes["q"]
        if form.bits < 8:
            q = np.concatenate([q & 15, q >> 4], axis=2)  # [groups, blocks, 8, 16, 4]
        h = planes.get("h")
        if h is not None:
            if form.bits == 5:
                upper = h >> np.arange(8, dtype=np.uint8)[:, None, None] & 1
            else:
                upper = h[:, :, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None, None] & 3
            q = q | upper.reshape(q.shape) << 4
        codes = q.transpose(0, 3, 1, 2, 4).reshape(self.groups * LANES, -1, BLOCK)[: self.rows]
        d, m, s, n = (
            None
            if (plane := planes.get(name)) is None
            else plane.transpose(0, 2, 1).reshape(self.groups * LANES, -1)[: self.rows]
            for name in "dmsn"
        )
        assert d is not None
        return Parts(codes, d, m, s, n)

    def _planes(self) -> dict[str, NDArray[Any]]:
        """Views of the planes, with the group first."""
        form, columns = self.format, self.columns
        grouped = self.data.reshape(self.groups, self.group_bytes)
        blocks = columns // BLOCK
        m_at, s_at, n_at, h_at, q_at = self._starts

        def plane(start: int, dtype: Any, *shape: int) -> NDArray[Any]:
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            view: NDArray[Any] = grouped[:, start : start + nbytes].view(dtype)
            return view.reshape(self.groups, *shape)

        if not form.quantized:
            return {"q": plane(q_at, form.block, columns, LANES)}
        units = columns // form.unit
        planes = {"d": plane(0, np.float16, units, LANES)}
        if form.has_min:
            planes["m"] = plane(m_at, np.float16, units, LANES)
        if form.sub:
            planes["s"] = plane(s_at, np.int8 if form.zero else np.uint8, columns // form.sub, LANES)
            if form.has_min:
                planes["n"] = plane(n_at, np.uint8, columns // form.sub, LANES)
        if form.bits in (5, 6):
            planes["h"] = plane(h_at, np.uint8, blocks, form.bits - 4, LANES, 4)
        planes["q"] = plane(q_at, np.uint8, blocks, 8 if form.bits == 8 else 4, LANES, 4)
        return planes

    def _fill(self, row: int, blocks: NDArray[Any]) -> None:
        """Put rows (as units of the format) at `row`, some at a time so that little memory is used on the
        way.
        """
        planes = self._planes()
        at = 0
        while at < len(blocks):
            group, lane = divmod(row + at, LANES)
            left = len(blocks) - at
            # whole groups where possible, else up to the end of this group
            count = (
                min(left, 64 * LANES) // LANES * LANES
                if lane == 0 and left >= LANES
                else min(LANES - lane, left)
            )
            where = slice(group, group + max(count // LANES, 1)), slice(lane, lane + min(count, LANES))
            self._put(planes, *where, blocks[at : at + count])
            at += count

    def _put(
        self, planes: dict[str, NDArray[Any]], groups: slice, lanes: slice, blocks: NDArray[Any]
    ) -> None:
        shape = (groups.stop - groups.start, lanes.stop - lanes.start)
        if not self.format.quantized:
            planes["q"][groups, :, lanes] = blocks.reshape(*shape, -1).transpose(0, 2, 1)
            return
        parts = self.format.parts(blocks)
        for name in "dmsn":
            if (values := getattr(parts, name)) is not None:
                planes[name][groups, :, lanes] = values.reshape(*shape, -1).transpose(0, 2, 1)
        codes = parts.codes.reshape(*shape, -1, 8, 4)  # [groups, lanes, blocks, operand, 4]
        bits = self.format.bits
        low = codes if bits == 8 else (codes[..., :4, :] & 15) | codes[..., 4:, :] << 4
        planes["q"][groups, :, :, lanes] = low.transpose(0, 2, 3, 1, 4)
        if bits in (5, 6):
            width = bits - 4
            each = codes.reshape(*codes.shape[:3], width, 8 // width, 4) >> 4
            shifted = each << np.arange(0, 8, width, dtype=np.uint8)[:, None]
            planes["h"][groups, :, :, lanes] = np.bitwise_or.reduce(shifted, axis=-2).transpose(0, 2, 3, 1, 4)
