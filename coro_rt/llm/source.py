"""What is quantized: metadata and tensors to read row by row, whatever file they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import QuantizeError, UnsupportedModel
from coro_rt.kernels.formats import Bytes, Floats, Format, by_ggml_type

from .gguf_file import open_gguf
from .gguf_writer import DEFAULT_ALIGNMENT

__all__ = ["Source", "SourceTensor", "from_gguf"]


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor in floating point under its GGUF name; `shape` in NumPy's order, `data` a view of its bytes.

    `order`: which of the stored rows each row is, if they are not in order. `drop`: call it when the tensor
    has been read, and its memory can go.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    data: Bytes
    order: NDArray[np.intp] | None = None
    drop: Callable[[], None] = lambda: None

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1]))

    def read(self, first: int, last: int) -> Floats:
        """float32 [last - first, columns]: some rows, all dimensions but the last one taken together."""
        stored = self.data.reshape(self.rows, -1)
        raw = stored[first:last] if self.order is None else stored[self.order[first:last]]
        return self.format.dequantize(raw.reshape(-1), (last - first, self.columns))


@dataclass(frozen=True, slots=True)
class Source:
    """`metadata`: values as they stand in a GGUF file. `files`: what must not be overwritten."""

    metadata: Mapping[str, bytes]
    tensors: Sequence[SourceTensor]
    files: Sequence[Path]
    alignment: int = DEFAULT_ALIGNMENT


def from_gguf(path: Path) -> Source:
    """A GGUF file in floating point. Raises as `open_gguf` does, and QuantizeError if it is quantized."""
    with open_gguf(path) as file:
        if (parts := file.get_int("split.count", 1)) > 1:
            raise UnsupportedModel(
                f"{path}: one of {parts} files that a model was split into; join them first"
            )
        tensors = []
        for tensor in file.tensors.values():
            format = by_ggml_type(int(tensor.type))
            if format is None or format.quantized:
                if not tensor.type.name.startswith(("F64", "I8", "I16", "I32", "I64")):
                    raise QuantizeError(
                        f"{path}: the tensor {tensor.name} is quantized already ({tensor.type.name}); a "
                        "second rounding would add to the first: start from its F32, F16 or BF16 file"
                    )
                raise UnsupportedModel(f"{path}: the tensor {tensor.name} has the type {tensor.type.name}")
            drop = partial(file.drop_pages, tensor)
            tensors.append(SourceTensor(tensor.name, tensor.shape, format, tensor.data, drop=drop))
        alignment = file.get_int("general.alignment", DEFAULT_ALIGNMENT)
        return Source(file.raw_metadata(), tensors, [path], alignment)
