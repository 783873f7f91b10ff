"""A safetensors file: memory-mapped, checked before use.

Eight bytes say how long the header is; the header is JSON, and says for each tensor its type, shape and where
its bytes are. As in a GGUF file, none of it is believed before it is compared with the file's size.

Specification: the format section of the `safetensors` package's documentation.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from coro_rt.errors import ModelFileError, ModelNotFound, UnsupportedModel
from coro_rt.kernels.formats import BF16, F16, F32, Bytes, Format

__all__ = ["StoredTensor", "read_safetensors"]

MAX_HEADER_BYTES = 64 << 20
MAX_DIMENSIONS = 4
FORMATS = {"F32": F32, "F16": F16, "BF16": BF16}
_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "I32": 32,
    "U32": 32,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the file at `path`; `data`: a read-only view."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Bytes

    @property
    def format(self) -> Format:
        """Raises `UnsupportedModel` for a type that weights here cannot have."""
        if self.dtype not in FORMATS:
            raise UnsupportedModel(
                f"{self.path}: the tensor {self.name} is {self.dtype}; what is read is {', '.join(FORMATS)}"
            )
        return FORMATS[self.dtype]


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name. Raises `ModelNotFound` and `ModelFileError`."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(f"there is no file {path}") from None
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise ModelFileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    length = int.from_bytes(mapped[:8], "little")
    if len(mapped) < 8 or length > min(len(mapped) - 8, MAX_HEADER_BYTES):
        _fail(path, f"not a safetensors file: its header would have {length} bytes")
    try:
        header = json.loads(mapped[8 : 8 + length])
    except (ValueError, RecursionError):
        _fail(path, "not a safetensors file: its header is not JSON")
    if not isinstance(header, dict):
        _fail(path, "its header is not a JSON object")
    everything = np.frombuffer(mapped, np.uint8)[8 + length :]
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, everything) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any, everything: Bytes) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(first), int(end)]}:
            pass
        case _:
            _fail(path, f"the tensor {name!r} has no dtype, shape and data_offsets")
    if not (len(shape) <= MAX_DIMENSIONS and all(type(size) is int and size >= 0 for size in shape)):
        _fail(path, f"the tensor {name!r} has the shape {shape}")
    bits = FORMATS[dtype].bits if dtype in FORMATS else _BITS.get(dtype)
    if not 0 <= first <= end <= len(everything) or (bits and (end - first) * 8 != math.prod(shape) * bits):
        _fail(path, f"the tensor {name!r} does not fit its {end - first} bytes, or the file: truncated?")
    return StoredTensor(path, name, tuple(shape), dtype, everything[first:end])


def _fail(path: Path, message: str) -> NoReturn:
    raise ModelFileError(f"{path}: {message}")
