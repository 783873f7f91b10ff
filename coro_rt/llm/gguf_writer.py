"""Writing a GGUF file, tensor by tensor, so that it appears whole or not at all.

Metadata are values as they stand in the file: made by the functions here, or taken from another file, whose
types are kept so. The same input always gives the same bytes. The file is written beside its place and moved
there at the end; whatever ends the writing, a Ctrl-C too, nothing is left of an unfinished one.

Specification: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGUFValueType

from coro_rt.kernels.formats import Bytes, Format

__all__ = ["GGUFWriter", "TensorPlan", "boolean", "float32", "integers", "string", "strings", "uint32"]

DEFAULT_ALIGNMENT = 32


def uint32(value: int) -> bytes:
    return struct.pack("<II", GGUFValueType.UINT32, value)


def float32(value: float) -> bytes:
    return struct.pack("<If", GGUFValueType.FLOAT32, value)


def boolean(value: bool) -> bytes:
    return struct.pack("<I?", GGUFValueType.BOOL, value)


def string(value: str) -> bytes:
    return struct.pack("<I", GGUFValueType.STRING) + _text(value)


def strings(values: Sequence[str]) -> bytes:
    head = struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.STRING, len(values))
    return head + b"".join(map(_text, values))


def integers(values: Sequence[int]) -> bytes:
    head = struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.INT32, len(values))
    return head + struct.pack(f"<{len(values)}i", *values)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to come: `shape` in NumPy's order."""

    name: str
    shape: tuple[int, ...]
    format: Format

    @property
    def nbytes(self) -> int:
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows * self.format.row_bytes(self.shape[-1])


class GGUFWriter:
    """Takes the tensors' bytes in the order of the plans; see `open`."""

    def __init__(self, file: BinaryIO, plans: Sequence[TensorPlan], alignment: int) -> None:
        self._file = file
        self._plans = plans
        self._alignment = alignment
        self._next = 0
        self._left = 0  # bytes of the tensor under way

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        metadata: Mapping[str, bytes],
        plans: Sequence[TensorPlan],
        *,
        alignment: int = DEFAULT_ALIGNMENT,
    ) -> Iterator[GGUFWriter]:
        """A writer for the file at `path`, which is there when the block has been left without an error."""
        beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with beside.open("xb") as file:
                writer = cls(file, plans, alignment)
                writer._write_header(metadata)
                yield writer
                assert writer._next == len(plans), "a tensor is missing"
                assert writer._left == 0, "a tensor is not complete"
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise

    def write(self, data: Bytes) -> None:
        """The next bytes; a tensor's last ones are padded to the alignment."""
        if self._left == 0:
            self._left = self._plans[self._next].nbytes
            self._next += 1
        assert 0 < data.nbytes <= self._left, (data.nbytes, self._left)
        self._file.write(data.data)
        self._left -= data.nbytes
        if self._left == 0:
            self._pad(self._plans[self._next - 1].nbytes)

    def _write_header(self, metadata: Mapping[str, bytes]) -> None:
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self._plans), len(metadata))]
        parts += [_text(key) + value for key, value in metadata.items()]
        offset = 0
        for plan in self._plans:
            shape = plan.shape[::-1]  # the file has the columns first
            parts.append(_text(plan.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            parts.append(struct.pack("<IQ", plan.format.ggml_type, offset))
            offset += -(-plan.nbytes // self._alignment) * self._alignment
        header = b"".join(parts)
        self._file.write(header)
        self._pad(len(header))

    def _pad(self, written: int) -> None:
        self._file.write(bytes(-written % self._alignment))
