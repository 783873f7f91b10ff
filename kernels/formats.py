"""Weight formats: how a block of a GGUF tensor is laid out in bytes, and what it means.

Each format's layout stands here once, as a NumPy structured type whose size is asserted. `dequantize` is its
meaning; `quantize` the plain round-to-nearest way in. Values and layouts: the GGUF specification's table of
tensor types.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 32
"""Values in a block of every quantized format here, and of the int8 activations."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store a matrix. `bits` 16 and 32 are floating point; 4 and 8 are integers with a scale per
    block.

    A quantized value is `d * (q - zero)`, or `d * q + m` where the format `has_min`.
    """

    name: str
    ggml_type: int  # as GGUF files number it
    bits: int
    block: Any  # NumPy dtype of one block
    block_values: int = BLOCK
    zero: int = 0
    has_min: bool = False

    known: ClassVar[dict[str, "Format"]] = {}

    def __post_init__(self) -> None:
        Format.known[self.name] = self

    @property
    def quantized(self) -> bool:
        return self.bits <= 8

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row; ValueError unless `columns` fills whole blocks."""
        if columns <= 0 or columns % self.block_values:
            raise ValueError(
                f"{self.name} rows hold whole blocks of {self.block_values} values, not {columns} values"
            )
        return columns // self.block_values * int(self.block.itemsize)

    def blocks(self, raw: Bytes, shape: tuple[int, int]) -> NDArray[Any]:
        """View raw bytes as blocks [rows, blocks per row]; ValueError if the sizes disagree."""
        rows, columns = shape
        expected = rows * self.row_bytes(columns)
        if raw.nbytes != expected:
            raise ValueError(
                f"a {rows} x {columns} {self.name} matrix has {expected} bytes, not {raw.nbytes}"
            )
        blocks: NDArray[Any] = np.ascontiguousarray(raw).reshape(-1).view(self.block).reshape(rows, -1)
        return blocks

    def integers(self, blocks: NDArray[Any]) -> NDArray[np.uint8]:
        """The unsigned integers of quantized blocks, uint8 [rows, blocks, 32]: int8 is stored plus 128 (=
        `zero`).
        """
        if self.bits == 8:
            return blocks["q"].view(np.uint8) ^ np.uint8(0x80)
        return np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=-1)

    def dequantize(self, raw: Bytes, shape: tuple[int, int]) -> Floats:
        """float32 [rows, columns] of a matrix in this format."""
        blocks = self.blocks(raw, shape)
        if not self.quantized:
            return blocks.astype(np.float32)
        values = self.integers(blocks).astype(np.float32) - np.float32(self.zero)
        values *= blocks["d"].astype(np.float32)[..., None]
        if self.has_min:
            values += blocks["m"].astype(np.float32)[..., None]
        return values.reshape(shape)

    def quantize(self, values: Floats) -> Bytes:
        """The nearest blocks to float32 [rows, columns], as bytes. Error: at most half a step of each block's
        grid.
        """
        rows, columns = values.shape
        self.row_bytes(columns)
        if not self.quantized:
            return np.ascontiguousarray(values, self.block).view(np.uint8).reshape(-1)
        grouped = values.reshape(rows, -1, BLOCK).astype(np.float32)
        blocks = np.zeros(grouped.shape[:2], self.block)
        steps = 2**self.bits - 1
        if self.has_min:
            low = grouped.min(-1)
            scale = (grouped.max(-1) - low) / steps
            blocks["m"] = low
        elif self.bits == 8:
            low = np.float32(0)
            scale = np.abs(grouped).max(-1) / 127
        else:  # the value of largest magnitude becomes exactly -zero
            low = np.float32(0)
            extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)[..., 0]
            scale = extreme / -self.zero
        blocks["d"] = scale
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        grid = np.rint((grouped - np.asarray(low)[..., None]) * inverse[..., None]) + self.zero
        q = np.clip(grid, 0, steps).astype(np.uint8)
        blocks["q"] = (q ^ 0x80).view(np.int8) if self.bits == 8 else q[..., :16] | q[..., 16:] << 4
        return blocks.view(np.uint8).reshape(-1)


F32 = Format("F32", 0, 32, np.dtype("<f4"), block_values=1)
F16 = Format("F16", 1, 16, np.dtype("<f2"), block_values=1)
Q4_0 = Format("Q4_0", 2, 4, np.dtype([("d", "<f2"), ("q", "u1", 16)]), zero=8)
Q4_1 = Format("Q4_1", 3, 4, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), has_min=True)
Q8_0 = Format("Q8_0", 8, 8, np.dtype([("d", "<f2"), ("q", "i1", 32)]), zero=128)

assert [f.block.itemsize for f in (F32, F16, Q4_0, Q4_1, Q8_0)] == [4, 2, 18, 20, 34]


def by_ggml_type(number: int) -> Format | None:
    """The format that GGUF files number so, or None if there are no kernels for it."""
    return next((f for f in Format.known.values() if f.ggml_type == number), None)
