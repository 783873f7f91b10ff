"""Weight formats: how a block of a GGUF tensor is laid out in bytes, and what it means.

Each format's layout stands here once, as a NumPy structured type whose size is asserted. All quantized
formats come down to the same three things (`Parts`): unsigned codes, a scale for each code, and a minimum for
each code,

    value = scale * (code - zero) + minimum

which is what `dequantize` computes and what `packed` stores for the CPU. Values and layouts: the GGUF
specification's table of tensor types. `quantize` is the way in: round to the nearest of the grid.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import fit

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 32
"""Values in a block of the int8 activations; every quantized format's row is a whole number of them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A quantized matrix taken apart; shapes begin [rows, …].

    `codes` uint8 [blocks of 32, 32]. `d` and `m` float16 [units]: scale and minimum of a unit (the format's
    own block). Formats with two levels have `s` and `n` [blocks of 32 · subs]: small integers that multiply
    `d` and `m`.
    """

    codes: NDArray[np.uint8]
    d: NDArray[np.float16]
    m: NDArray[np.float16] | None = None
    s: NDArray[Any] | None = None
    n: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store a matrix.

    `bits` of a code: 4, 5, 6 or 8; 16 and 32 are floating point. `unit`: values that share `d` (and `m`).
    `sub`: values that share a small scale `s` (and minimum `n`), where the format has two levels; else 0.
    """

    name: str
    ggml_type: int  # as GGUF files number it
    bits: int
    block: Any  # NumPy dtype of one unit
    unit: int = BLOCK
    sub: int = 0
    zero: int = 0
    has_min: bool = False

    known: ClassVar[dict[str, "Format"]] = {}

    def __post_init__(self) -> None:
        Format.known[self.name] = self

    @property
    def quantized(self) -> bool:
        return self.bits <= 8

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row; ValueError unless `columns` fills whole units."""
        if columns <= 0 or columns % self.unit:
            raise ValueError(
                f"{self.name} rows hold whole blocks of {self.unit} values, not {columns} values"
            )
        return columns // self.unit * int(self.block.itemsize)

    def blocks(self, raw: Bytes, shape: tuple[int, int]) -> NDArray[Any]:
        """View raw bytes as units [rows, units per row]; ValueError if the sizes disagree."""
        rows, columns = shape
        expected = rows * self.row_bytes(columns)
        if raw.nbytes != expected:
            raise ValueError(
                f"a {rows} x {columns} {self.name} matrix has {expected} bytes, not {raw.nbytes}"
            )
        blocks: NDArray[Any] = np.ascontiguousarray(raw).reshape(-1).view(self.block).reshape(rows, -1)
        return blocks

    def parts(self, blocks: NDArray[Any]) -> Parts:
        """Take units [rows, units per row] of a quantized format apart."""
        return _PARTS[self.name](blocks)

    def dequantize(self, raw: Bytes, shape: tuple[int, int]) -> Floats:
        """float32 [rows, columns] of a matrix in this format."""
        blocks = self.blocks(raw, shape)
        if self.name == "BF16":
            return (blocks.astype(np.uint32) << 16).view(np.float32)
        if not self.quantized:
            return blocks.astype(np.float32)
        return self.assemble(self.parts(blocks)).reshape(shape)

    def assemble(self, parts: Parts) -> Floats:
        """float32 [rows, columns]: scale * (code - zero) + minimum."""
        rows = len(parts.codes)
        each = self.sub or self.unit
        values = parts.codes.reshape(rows, -1, each).astype(np.float32) - np.float32(self.zero)
        scales, minima = self.grid(parts)
        values *= scales[..., None]
        if minima is not None:
            values += minima[..., None]
        return values.reshape(rows, -1)

    def grid(self, parts: Parts) -> tuple[Floats, Floats | None]:
        """Scale and minimum of what shares them, float32 [rows, columns / (sub or unit)] each."""
        scales = self._per(parts.d, parts.s)
        if parts.m is None:
            return scales, None
        # two levels subtract their minimum
        return scales, self._per(parts.m, parts.n) * np.float32(-1 if self.sub else 1)

    def _per(self, coarse: NDArray[np.float16], fine: NDArray[Any] | None) -> Floats:
        wide = coarse.astype(np.float32)
        if fine is None:
            return wide
        return np.repeat(wide, self.unit // self.sub, axis=1) * fine.reshape(len(fine), -1).astype(np.float32)

    def quantize(self, values: Floats, *, search: bool = False) -> Bytes:
        """Units near to float32 [rows, columns], as bytes; codes are rounded to the nearest of each grid.

        The grid spans what there is, or with `search` is the best of several (see `fit`).
        """
        self.row_bytes(values.shape[1])
        values = np.ascontiguousarray(values, np.float32)
        if self.name == "BF16":
            bits = values.view(np.uint32)
            even = (bits >> 16 & 1) + np.uint32(0x7FFF)
            return ((bits + even) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)
        if not self.quantized:
            return values.astype(self.block).view(np.uint8).reshape(-1)
        return _QUANTIZE[self.name](self, values, search).view(np.uint8).reshape(-1)


F32 = Format("F32", 0, 32, np.dtype("<f4"), unit=1)
F16 = Format("F16", 1, 16, np.dtype("<f2"), unit=1)
BF16 = Format("BF16", 30, 16, np.dtype("<u2"), unit=1)
Q4_0 = Format("Q4_0", 2, 4, np.dtype([("d", "<f2"), ("q", "u1", 16)]), zero=8)
Q4_1 = Format("Q4_1", 3, 4, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), has_min=True)
Q5_0 = Format("Q5_0", 6, 5, np.dtype([("d", "<f2"), ("h", "u1", 4), ("q", "u1", 16)]), zero=16)
Q5_1 = Format(
    "Q5_1", 7, 5, np.dtype([("d", "<f2"), ("m", "<f2"), ("h", "u1", 4), ("q", "u1", 16)]), has_min=True
)
Q8_0 = Format("Q8_0", 8, 8, np.dtype([("d", "<f2"), ("q", "i1", 32)]), zero=128)
Q4_K = Format(
    "Q4_K", 12, 4, np.dtype([("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("q", "u1", 128)]),
    unit=256, sub=32, has_min=True,
)  # fmt: skip
Q5_K = Format(
    "Q5_K", 13, 5, np.dtype([("d", "<f2"), ("m", "<f2"), ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", 128)]),
    unit=256, sub=32, has_min=True,
)  # fmt: skip
Q6_K = Format(
    "Q6_K", 14, 6, np.dtype([("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), ("d", "<f2")]),
    unit=256, sub=16, zero=32,
)  # fmt: skip

assert {f.name: f.block.itemsize for f in Format.known.values()} == {
    "F32": 4, "F16": 2, "BF16": 2, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34,
    "Q4_K": 144, "Q5_K": 176, "Q6_K": 210,
}  # fmt: skip


def by_ggml_type(number: int) -> Format | None:
    """The format that GGUF files number so, or None if there are no kernels for it."""
    return next((f for f in Format.known.values() if f.ggml_type == number), None)


# Taking units apart


def _nibbles(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[…, n] bytes to […, 2n] codes: the low nibbles, then the high ones."""
    return np.concatenate([q & 15, q >> 4], axis=-1)


def _parts_of_block(blocks: NDArray[Any]) -> Parts:
    names = blocks.dtype.names or ()
    if blocks.dtype == Q8_0.block:
        codes: NDArray[Any] = blocks["q"].view(np.uint8) ^ np.uint8(0x80)  # plus 128
    else:
        codes = _nibbles(blocks["q"])
    if "h" in names:  # bit i of 32 is column i's fifth
        codes = codes | np.unpackbits(blocks["h"], axis=-1, bitorder="little") << 4
    return Parts(codes, blocks["d"], blocks["m"] if "m" in names else None)


def _small_scales(s: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """[…, 12] bytes to eight 6-bit scales and eight 6-bit minima."""
    a, b, c = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=-1)
    minima = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=-1)
    return scales, minima


def _pack_small_scales(scales: NDArray[np.uint8], minima: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low_s, high_s, low_m, high_m = scales[..., :4], scales[..., 4:], minima[..., :4], minima[..., 4:]
    a, b = low_s | high_s >> 4 << 6, low_m | high_m >> 4 << 6
    return np.concatenate([a, b, (high_s & 15) | (high_m & 15) << 4], axis=-1)


def _parts_of_k(blocks: NDArray[Any]) -> Parts:
    rows = len(blocks)
    # 32 bytes hold two blocks of 32: the low nibbles, then the high ones
    codes: NDArray[Any] = _nibbles(blocks["q"].reshape(rows, -1, 32)).reshape(rows, -1, 8, 32)
    if "h" in (blocks.dtype.names or ()):  # bit i of byte c is the fifth of column c of block i
        bits = blocks["h"][:, :, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
        codes = codes | bits << 4
    scales, minima = _small_scales(blocks["s"])
    return Parts(codes.reshape(rows, -1, 32), blocks["d"], blocks["m"], scales, minima)


def _parts_of_q6_k(blocks: NDArray[Any]) -> Parts:
    rows = len(blocks)
    # a half of 128 values: 64 bytes of nibbles, 32 bytes of pairs of bits
    low: NDArray[Any] = _nibbles(blocks["q"].reshape(rows, -1, 64)).reshape(rows, -1, 4, 32)
    high = blocks["h"].reshape(rows, -1, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return Parts((low | high << 4).reshape(rows, -1, 32), blocks["d"], None, blocks["s"])


_PARTS = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), _parts_of_block),
    **dict.fromkeys(("Q4_K", "Q5_K"), _parts_of_k),
    "Q6_K": _parts_of_q6_k,
}


# Quantizing


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _put_codes(blocks: NDArray[Any], codes: NDArray[np.uint8]) -> None:
    """Write codes [rows, units, unit] into the fields q and h; the inverse of `_PARTS`."""
    rows, units, unit = codes.shape
    low, high = codes & 15, codes >> 4
    if unit == BLOCK:
        blocks["q"] = low[..., :16] | low[..., 16:] << 4
        if "h" in (blocks.dtype.names or ()):
            blocks["h"] = np.packbits(high, axis=-1, bitorder="little")
    elif blocks.dtype == Q6_K.block:
        halves = low.reshape(rows, units, 2, 2, 64)
        blocks["q"] = (halves[..., 0, :] | halves[..., 1, :] << 4).reshape(rows, units, 128)
        pairs = high.reshape(rows, units, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
        blocks["h"] = np.bitwise_or.reduce(pairs, axis=-2).reshape(rows, units, 64)
    else:
        pairs = low.reshape(rows, units, 4, 2, 32)
        blocks["q"] = (pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(rows, units, 128)
        if "h" in (blocks.dtype.names or ()):
            bits = high.reshape(rows, units, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
            blocks["h"] = np.bitwise_or.reduce(bits, axis=-2)


def _quantize_blocks(form: Format, values: Floats, search: bool) -> NDArray[Any]:
    grouped = values.reshape(len(values), -1, BLOCK)
    blocks = np.zeros(grouped.shape[:2], form.block)
    steps = 2**form.bits - 1
    low: Any = np.float32(0)
    if form.has_min:
        low = grouped.min(-1)
        scale = (grouped.max(-1) - low) / steps
        if search:
            scale, low = fit.scales_and_minima(grouped, steps)
        blocks["d"], blocks["m"] = scale, low
        low = blocks["m"].astype(np.float32)
    elif form.bits == 8:
        scale = np.abs(grouped).max(-1) / np.float32(127)
        blocks["d"] = fit.scales(grouped, scale, -127, 127) if search else scale
    else:  # the value of largest magnitude becomes exactly -zero
        at = np.abs(grouped).argmax(-1)[..., None]
        scale = np.take_along_axis(grouped, at, -1)[..., 0] / np.float32(-form.zero)
        blocks["d"] = fit.scales(grouped, scale, -form.zero, form.zero - 1) if search else scale
    inverse = _inverse(blocks["d"].astype(np.float32))[..., None]
    grid = np.rint((grouped - np.asarray(low)[..., None]) * inverse) + form.zero
    codes = np.clip(grid, 0, steps).astype(np.uint8)
    if form.bits == 8:
        blocks["q"] = (codes ^ 0x80).view(np.int8)
    else:
        _put_codes(blocks, codes)
    return blocks


def _quantize_k(form: Format, values: Floats, search: bool) -> NDArray[Any]:
    grouped = values.reshape(len(values), -1, 8, 32)
    blocks = np.zeros(grouped.shape[:2], form.block)
    steps = 2**form.bits - 1
    low = np.maximum(-grouped.min(-1), 0)  # what is subtracted; never negative in these formats
    scale = np.maximum(grouped.max(-1) + low, 0) / steps
    if search:
        scale, minimum = fit.scales_and_minima(grouped, steps, most=0.0)
        low = -minimum
    small = []
    for name, wanted in (("d", scale), ("m", low)):
        blocks[name] = wanted.max(-1) / 63
        coarse = blocks[name].astype(np.float32)[..., None]
        small.append(np.clip(np.rint(wanted * _inverse(coarse)), 0, 63).astype(np.uint8))
    blocks["s"] = _pack_small_scales(*small)
    real_scale = blocks["d"].astype(np.float32)[..., None] * small[0]
    real_low = blocks["m"].astype(np.float32)[..., None] * small[1]
    grid = np.rint((grouped + real_low[..., None]) * _inverse(real_scale)[..., None])
    _put_codes(blocks, np.clip(grid, 0, steps).astype(np.uint8).reshape(*grouped.shape[:2], 256))
    return blocks


def _quantize_q6_k(form: Format, values: Floats, search: bool) -> NDArray[Any]:
    grouped = values.reshape(len(values), -1, 16, 16)
    blocks = np.zeros(grouped.shape[:2], form.block)
    at = np.abs(grouped).argmax(-1)[..., None]
    scale = np.take_along_axis(grouped, at, -1)[..., 0] / np.float32(-form.zero)
    if search:
        scale = fit.scales(grouped, scale, -form.zero, form.zero - 1)
    blocks["d"] = np.abs(scale).max(-1) / 127
    coarse = blocks["d"].astype(np.float32)[..., None]
    blocks["s"] = np.clip(np.rint(scale * _inverse(coarse)), -127, 127).astype(np.int8)
    grid = np.rint(grouped * _inverse(coarse * blocks["s"])[..., None]) + form.zero
    _put_codes(blocks, np.clip(grid, 0, 63).astype(np.uint8).reshape(*grouped.shape[:2], 256))
    return blocks


_QUANTIZE = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), _quantize_blocks),
    **dict.fromkeys(("Q4_K", "Q5_K"), _quantize_k),
    "Q6_K": _quantize_q6_k,
}
