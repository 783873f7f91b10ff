"""The tensors of a GGUF file as a program needs them: matrices packed for its device, vectors as float32.

Every tensor must get used: one that is left over belongs to something that the program does not do, and
without it the model would give wrong text with no other sign.
"""

from collections.abc import Sequence
from typing import Generic

import numpy as np

from coro_rt.errors import ModelFileError, UnsupportedModel
from coro_rt.kernels import formats
from coro_rt.kernels.formats import Floats, Format
from coro_rt.kernels.operations import M, Operations

from .gguf_file import GGUFFile, Tensor

IGNORED = (".rotary_emb.inv_freq", ".attn_rot_embd.weight")
"""Ends of names of tensors that say again what the metadata say."""


class Weights(Generic[M]):
    """Raises ModelFileError for a missing tensor or a wrong shape, UnsupportedModel for a format without
    kernels."""

    def __init__(self, file: GGUFFile, program: Operations[M]) -> None:
        self._file, self._program = file, program
        self._unused = {name for name in file.tensors if not name.endswith(IGNORED)}

    def __contains__(self, name: str) -> bool:
        return name in self._file.tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self._file.tensors.get(name)
        return None if tensor is None else tensor.shape

    def floats(self, name: str, size: int) -> Floats:
        tensor = self._tensor(name, (size,))
        values: Floats = self._format(tensor).dequantize(tensor.data, (1, size))[0]
        return values

    def table(self, name: str, shape: tuple[int, int]) -> Floats:
        """A matrix that is read row by row and multiplied with nothing."""
        tensor = self._tensor(name, shape)
        values: Floats = self._format(tensor).dequantize(tensor.data, shape)
        self._file.drop_pages(tensor)
        return values

    def positive(self, name: str, size: int) -> Floats:
        """Numbers to divide by."""
        values = self.floats(name, size)
        if not (values > 0).all():
            raise ModelFileError(f"{self._file.path}: the tensor {name} has values that are not positive")
        return values

    def biases(self, parts: Sequence[tuple[str, int]]) -> Floats | None:
        """Vectors in a row, zeros for those that the file does not have; None if it has none."""
        if not any(name in self for name, _ in parts):
            return None
        return np.concatenate(
            [self.floats(name, size) if name in self else np.zeros(size, np.float32) for name, size in parts]
        )

    def stack(self, parts: Sequence[tuple[str, tuple[int, int]]]) -> list[M]:
        """Pack matrices that are applied to the same input, neighbours of one format in one piece."""
        packed: list[M] = []
        run: list[Tensor] = []
        running: Format | None = None
        for name, shape in parts:
            tensor = self._tensor(name, shape)
            format = self._format(tensor)
            # a piece that does not end on a whole group of rows would leave a gap in the output
            if run and format is not running:
                packed.append(self._pack(running, run))
                run = []
            run.append(tensor)
            running = format
        packed.append(self._pack(running, run))
        return packed

    def all_used(self) -> None:
        """UnsupportedModel if the file has tensors that nobody asked for."""
        if self._unused:
            some = ", ".join(sorted(self._unused)[:3])
            raise UnsupportedModel(
                f"{self._file.path}: {len(self._unused)} tensors belong to something that is not supported "
                f"for {self._file.architecture!r}: {some}"
            )

    def _pack(self, format: Format | None, tensors: Sequence[Tensor]) -> M:
        assert format is not None
        packed = self._program.pack(format, *((t.data, (t.shape[0], t.shape[1])) for t in tensors))
        for tensor in tensors:
            self._file.drop_pages(tensor)  # so that the model is never in memory twice
        return packed

    def _format(self, tensor: Tensor) -> Format:
        format = formats.by_ggml_type(int(tensor.type))
        if format is None:
            known = ", ".join(sorted(formats.Format.known))
            raise UnsupportedModel(
                f"{self._file.path}: tensor {tensor.name} is in format {tensor.type.name}, which has no "
                f"kernels here; supported: {known}"
            )
        return format

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._file.tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self._file.path}: the tensor {name} is missing")
        if tensor.shape != shape:
            raise ModelFileError(
                f"{self._file.path}: the tensor {name} has shape {tensor.shape}, "
                f"where shape {shape} was expected"
            )
        self._unused.discard(name)
        return tensor
