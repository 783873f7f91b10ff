"""A GGUF file, memory-mapped, believed only after it was checked.

The header of a GGUF file says how many keys, tensors and bytes follow, and any of these figures may lie. So
one bounded walk reads it: every count and length is compared with what is left of the file before anything is
looped over or allocated, and every tensor's extent lies inside the file before anyone gets a view of it.

The formats' names and block sizes come from the `gguf` package; its `GGUFReader` is not used here. It
believes the counts, so the walk would be needed before it anyway, the walk already yields all there is, and
GGUFReader keeps two arrays for every token and merge (about 40 times as slow on a vocabulary of 49,152). The
tests hold both readers against each other.

Specification: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from coro_rt.errors import ModelFileError, ModelNotFound, UnsupportedModel

__all__ = ["GGUFFile", "Tensor", "open_gguf"]

MAX_HEADER_BYTES = 64 << 20
"""Keys, values and tensor descriptions together. A vocabulary of 262,144 tokens needs about 10 MB."""
MAX_VALUES = 1 << 22
"""Keys, array elements and tensors together: bounds what a header may allocate to a few hundred MB."""
MAX_ARRAY_DEPTH = 4
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
VERSIONS = (2, 3)

D = TypeVar("D")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `shape` in NumPy's order (rows, columns), `data` its raw bytes as a read-only view of the
    file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    data: npt.NDArray[np.uint8]


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Map the file at `path` and check it.

    Raises `ModelNotFound` if there is no such file, `ModelFileError` if it is not a sound GGUF file or cannot
    be read, and `UnsupportedModel` for a version or byte order that is not read here. Nothing stays open
    after an error.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: a FIFO would block
            raise ModelFileError(f"{path} is not a file, but a model is one file in the GGUF format")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:  # which cannot be mapped
                raise ModelFileError(f"{path} is empty, not a GGUF file")
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(f"there is no file {path}") from None
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: a path with a null byte, or a file that shrinks meanwhile
        raise ModelFileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return GGUFFile(path, size, *_Walk(path, mapped, size).run())


class GGUFFile:
    """A sound GGUF file. `metadata` holds plain Python values (arrays as lists), `tensors` the tensors in the
    file's order.

    Closing forgets the tensors; the mapping itself goes away with the last view of their data. Who changes or
    truncates the file meanwhile changes the data, or kills the process, as with any mapped file.
    """

    def __init__(self, path: Path, size: int, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.path = path
        self.size = size
        self.metadata: Mapping[str, Any] = MappingProxyType(metadata)
        self._tensors: Mapping[str, Tensor] | None = MappingProxyType(tensors)
        self.architecture = self.require_str("general.architecture")

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        if self._tensors is None:
            raise ModelFileError(f"{self.path} has been closed")
        return self._tensors

    def close(self) -> None:
        """Forget the tensors. May be called again."""
        self._tensors = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GGUFFile {str(self.path)!r} {self.architecture}>"

    # Typed access. `get_…` takes what to give when the key is absent; `require_…` raises ModelFileError then.
    # Both raise ModelFileError if the value has another type.

    def get_int(self, key: str, default: D) -> int | D:
        return self._get(key, default, _as_int, "an integer")

    def get_float(self, key: str, default: D) -> float | D:
        """An integer is taken too; NaN and infinity are not."""
        return self._get(key, default, _as_float, "a finite number")

    def get_str(self, key: str, default: D) -> str | D:
        return self._get(key, default, _as_str, "a string")

    def get_bool(self, key: str, default: D) -> bool | D:
        return self._get(key, default, _as_bool, "a boolean")

    def get_ints(self, key: str, default: D) -> list[int] | D:
        return self._get(key, default, _as_ints, "an array of integers")

    def get_strs(self, key: str, default: D) -> list[str] | D:
        return self._get(key, default, _as_strs, "an array of strings")

    def require_int(self, key: str) -> int:
        return self._require(key, _as_int, "an integer")

    def require_float(self, key: str) -> float:
        """An integer is taken too; NaN and infinity are not."""
        return self._require(key, _as_float, "a finite number")

    def require_str(self, key: str) -> str:
        return self._require(key, _as_str, "a string")

    def require_ints(self, key: str) -> list[int]:
        return self._require(key, _as_ints, "an array of integers")

    def require_strs(self, key: str) -> list[str]:
        return self._require(key, _as_strs, "an array of strings")

    def _get(self, key: str, default: D, convert: Callable[[Any], V | None], expected: str) -> V | D:
        return self._require(key, convert, expected) if key in self.metadata else default

    def _require(self, key: str, convert: Callable[[Any], V | None], expected: str) -> V:
        if key not in self.metadata:
            raise ModelFileError(f"{self.path}: the key {key!r} is missing; {expected} was expected")
        value = convert(self.metadata[key])
        if value is None:
            raise ModelFileError(f"{self.path}: {key!r} is {_describe(self.metadata[key])}, not {expected}")
        return value


def _as_int(value: Any) -> int | None:
    return value if type(value) is int else None  # a bool is not an integer here


def _as_float(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _as_str(value: Any) -> str | None:
    return value if type(value) is str else None


def _as_bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _as_ints(value: Any) -> list[int] | None:
    return value if type(value) is list and all(type(item) is int for item in value) else None


def _as_strs(value: Any) -> list[str] | None:
    return value if type(value) is list and all(type(item) is str for item in value) else None


def _describe(value: Any) -> str:
    if type(value) is list:
        inner = type(value[0]).__name__ if value else "nothing"
        return f"an array of {inner}"
    return f"{type(value).__name__} {str(value)[:40]!r}"


_SCALARS: Mapping[GGUFValueType, struct.Struct] = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
    GGUFValueType.BOOL: struct.Struct("<?"),
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_MIN_KEY_BYTES = 8 + 4 + 1  # a name's length, a value's type, a value
_MIN_TENSOR_BYTES = (
    8 + 4 + 8 + 4 + 8
)  # a name's length, a count of dimensions, one dimension, a type, an offset


class _Walk:
    """One pass over the header. `self.at` never passes `self.end`: `_take` is the only way forward."""

    def __init__(self, path: Path, mapped: mmap.mmap, size: int) -> None:
        self.path = path
        self.bytes = mapped
        self.size = size
        self.end = min(size, MAX_HEADER_BYTES)
        self.at = 0
        self.values = 0

    def run(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        self._check_magic()
        tensor_count, key_count = self._u64(), self._u64()
        self._count(key_count, _MIN_KEY_BYTES, "keys")
        self._count(tensor_count, _MIN_TENSOR_BYTES, "tensors")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string("a key's name")
            if key in metadata:
                self._fail(f"the key {key!r} comes twice")
            metadata[key] = self._value(self._type(key), key)
        described = [self._tensor() for _ in range(tensor_count)]
        return metadata, self._place(described, self._alignment(metadata))

    def _check_magic(self) -> None:
        if self.bytes[:4] != b"GGUF":
            self._fail(f"not a GGUF file: it begins with {self.bytes[:4]!r}, not b'GGUF'")
        self.at = 4
        version = self._u32()
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(f"{self.path}: a big-endian GGUF file; only little-endian ones are read")
        if version not in VERSIONS:
            raise UnsupportedModel(f"{self.path}: GGUF version {version}; only versions 2 and 3 are read")

    def _value(self, kind: GGUFValueType, key: str, depth: int = 0) -> Any:
        if kind is GGUFValueType.STRING:
            return self._string(key)
        if kind is not GGUFValueType.ARRAY:
            return self._scalar(_SCALARS[kind], key)
        if depth == MAX_ARRAY_DEPTH:
            self._fail(f"{key!r} nests arrays deeper than {MAX_ARRAY_DEPTH}")
        kind, length = self._type(key), self._u64()
        if kind is GGUFValueType.STRING:
            self._count(length, 8, f"strings of {key!r}")
            return [self._string(key) for _ in range(length)]
        if kind is GGUFValueType.ARRAY:
            self._count(length, 12, f"arrays of {key!r}")
            return [self._value(kind, key, depth + 1) for _ in range(length)]
        scalar = _SCALARS[kind]
        self._count(length, scalar.size, f"elements of {key!r}")
        return [value for (value,) in scalar.iter_unpack(self._take(length * scalar.size, key))]

    def _tensor(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self._string("a tensor's name")
        dimensions = self._u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self._fail(f"tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} were expected")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]  # the file has the columns first
        if 0 in shape:
            self._fail(f"tensor {name!r} is empty: its shape is {shape}")
        number = self._u32()
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            self._fail(f"tensor {name!r} has the unknown format number {number}")
        return name, shape, kind, self._u64()

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment.bit_count() != 1 or not 8 <= alignment <= MAX_ALIGNMENT:
            self._fail(f"'general.alignment' is {alignment!r}, not a power of two from 8 to {MAX_ALIGNMENT}")
        return alignment

    def _place(
        self, described: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]], alignment: int
    ) -> dict[str, Tensor]:
        """Views of the tensors' data, once every extent is known to be inside the file and none overlaps
        another."""
        start = -(-self.at // alignment) * alignment
        everything = np.frombuffer(self.bytes, np.uint8)
        tensors: dict[str, Tensor] = {}
        extents: list[tuple[int, int, str]] = []
        for name, shape, kind, offset in described:
            if name in tensors:
                self._fail(f"the tensor {name!r} comes twice")
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if shape[-1] % block:
                self._fail(
                    f"tensor {name!r} has rows of {shape[-1]}, no multiple of {kind.name}'s block of {block}"
                )
            if offset % alignment:
                self._fail(f"tensor {name!r} starts at {offset}, not a multiple of the alignment {alignment}")
            first, length = start + offset, math.prod(shape) // block * block_bytes
            if first + length > self.size:
                self._fail(
                    f"tensor {name!r} ends at byte {first + length}, but the file has {self.size}: truncated?"
                )
            tensors[name] = Tensor(name, shape, kind, everything[first : first + length])
            extents.append((first, first + length, name))
        extents.sort()
        for (_, end, name), (first, _, other) in itertools.pairwise(extents):
            if first < end:
                self._fail(f"the tensors {name!r} and {other!r} overlap")
        return tensors

    def _type(self, key: str) -> GGUFValueType:
        number = self._u32()
        try:
            return GGUFValueType(number)
        except ValueError:
            self._fail(f"{key!r} has the unknown value type {number}")

    def _string(self, what: str) -> str:
        length = self._u64()
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError as error:
            self._fail(f"{what!r} holds a string that is not UTF-8 ({error.reason})")

    def _scalar(self, scalar: struct.Struct, what: str) -> Any:
        return scalar.unpack(self._take(scalar.size, what))[0]

    def _u32(self) -> int:
        return int(self._scalar(_U32, "the header"))

    def _u64(self) -> int:
        return int(self._scalar(_U64, "the header"))

    def _take(self, length: int, what: str) -> bytes:
        if length > self.end - self.at:
            self._fail(
                f"{what!r} needs {length} bytes at {self.at}, but {self.end - self.at} are left{self._why()}"
            )
        self.at += length
        return self.bytes[self.at - length : self.at]

    def _count(self, count: int, least_bytes: int, what: str) -> None:
        """Refuse a count that what is left of the header cannot hold, before anything is looped over or
        allocated."""
        if count * least_bytes > self.end - self.at:
            self._fail(f"it claims {count} {what}, but {self.end - self.at} bytes are left{self._why()}")
        self.values += count
        if self.values > MAX_VALUES:
            self._fail(f"its header holds more than {MAX_VALUES} values")

    def _why(self) -> str:
        return (
            ": truncated?" if self.end == self.size else f" of the {MAX_HEADER_BYTES} that a header may have"
        )

    def _fail(self, message: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {message}")
