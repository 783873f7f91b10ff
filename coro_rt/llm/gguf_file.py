"""A GGUF file: memory-mapped, checked before use, with typed access to what it says about the model."""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from coro_rt.errors import ModelFileError, ModelNotFound
from coro_rt.llm.gguf_header import Tensor, read_header, read_values

__all__ = ["GGUFFile", "Tensor", "open_gguf"]

D = TypeVar("D")
V = TypeVar("V")


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
    ) as error:  # ValueError: a null byte in the path, a file that shrinks meanwhile
        raise ModelFileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return GGUFFile(path, size, mapped, *read_header(path, mapped))


class GGUFFile:
    """A sound GGUF file: `metadata` as plain Python values (arrays as lists), `tensors` in the file's order.

    Closing forgets the tensors; the mapping itself goes away with the last view of their data. Who changes or
    truncates the file meanwhile changes the data, or kills the process, as with any mapped file.
    """

    def __init__(
        self, path: Path, size: int, mapped: mmap.mmap, metadata: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        self.path = path
        self.size = size
        self._mapped = mapped
        self.metadata: Mapping[str, Any] = MappingProxyType(metadata)
        self._tensors: Mapping[str, Tensor] | None = MappingProxyType(tensors)
        self.architecture = self.require_str("general.architecture")

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        if self._tensors is None:
            raise ModelFileError(f"{self.path} has been closed")
        return self._tensors

    def raw_metadata(self) -> dict[str, bytes]:
        """The metadata as they stand in the file, type and value, to be written into another one."""
        return read_values(self.path, self._mapped)

    def drop_pages(self, tensor: Tensor) -> None:
        """Let the OS have the memory back that a tensor's data took when it was read; reading again reads the
        file. So whoever copies all tensors one by one never holds the whole file."""
        if not hasattr(self._mapped, "madvise"):
            return
        base = np.frombuffer(self._mapped, np.uint8).ctypes.data
        start = tensor.data.ctypes.data - base
        end = (start + tensor.data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if start < end:
            self._mapped.madvise(mmap.MADV_DONTNEED, start, end - start)

    def forget_metadata(self) -> None:
        """Keep the tensors alone: the vocabulary takes as much as some layers. Typed access finds nothing."""
        self.metadata = MappingProxyType({})
        if hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

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

    def require_int(self, key: str) -> int:
        return self._require(key, _as_int, "an integer")

    def require_float(self, key: str) -> float:
        """An integer is taken too; NaN and infinity are not."""
        return self._require(key, _as_float, "a finite number")

    def require_str(self, key: str) -> str:
        return self._require(key, _as_str, "a string")

    def require_ints(self, key: str) -> list[int]:
        return self._require(key, _as_ints, "an array of integers")

    def require_floats(self, key: str) -> list[float]:
        return self._require(key, _as_floats, "an array of finite numbers")

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


def _as_floats(value: Any) -> list[float] | None:
    if type(value) is not list:
        return None
    numbers = [number for item in value if (number := _as_float(item)) is not None]
    return numbers if len(numbers) == len(value) else None


def _as_strs(value: Any) -> list[str] | None:
    return value if type(value) is list and all(type(item) is str for item in value) else None


def _describe(value: Any) -> str:
    if type(value) is list:
        inner = type(value[0]).__name__ if value else "nothing"
        return f"an array of {inner}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
