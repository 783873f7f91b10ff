"""Single operations on arrays on a GPU: what `kernels.launch` needs to run its functions there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.kernels.formats import BLOCK, Floats
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.planar import PlanarMatrix
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.workspace import Widths

from .device import GpuDevice
from .matrix import GpuMatrix
from .program import GpuProgram
from .workspace import GpuWorkspace


class OnGpu:
    """A `kernels.launch.Runner`. The device must have been started."""

    def __init__(self, device: GpuDevice) -> None:
        self._device = device

    def matrix(self, w: PackedMatrix) -> GpuMatrix:
        if w.format.quantized:
            return GpuMatrix(self._device, PlanarMatrix.of_parts(w.format, w.parts()))
        return GpuMatrix(self._device, PlanarMatrix.of_blocks(w.format, w.columns, w.values()))

    def program(self, widths: Widths) -> GpuProgram:
        return GpuProgram(self._device, widths)

    def workspace(self, widths: Widths, rows: int) -> MirroredWorkspace:
        return MirroredWorkspace(self._device, widths, rows)

    def pages(self, program: GpuProgram, kv: KVShape, positions: int) -> NDArray[np.int64]:
        assert program.pages is not None
        return np.array([program.pages.take() for _ in range(-(-positions // PAGE_POSITIONS))], np.int64)

    def quantize(self, workspace: MirroredWorkspace, columns: int) -> tuple[NDArray[np.int8], Floats]:
        program = self.program(workspace.widths)
        program.quantize(columns, source=Buffer.NORMED, out=Buffer.QNORMED)
        workspace.step_rows = workspace.rows
        workspace.upload()
        assert self._device.run(program.finish(), workspace)
        workspace.at = 0
        words = workspace.words(Buffer.QNORMED)
        pairs = words[:, columns // 4 :].view(np.float32)
        q = np.ascontiguousarray(words[:, : columns // 4]).view(np.int8)
        return q, pairs[:, : columns // BLOCK * 2 : 2].copy()

    def run(self, program: GpuProgram, workspace: MirroredWorkspace) -> None:
        workspace.upload()
        assert self._device.run(program, workspace)
        workspace.forget()


class MirroredWorkspace(GpuWorkspace):
    """What is written into `floats` before a run is on the device when it runs."""

    def __init__(self, device: GpuDevice, widths: Widths, rows: int) -> None:
        super().__init__(device, widths, rows=rows, tail=rows)
        self.widths = widths
        self._written: dict[Buffer, Any] | None = {}

    def floats(self, buffer: Buffer) -> Floats:
        if self._written is None:
            return super().floats(buffer)
        if buffer not in self._written:
            self._written[buffer] = np.zeros((self.rows, self._words[buffer]), np.float32)
        values: Floats = self._written[buffer]
        return values

    def upload(self) -> None:
        for buffer, values in (self._written or {}).items():
            self.put(buffer, values)

    def forget(self) -> None:
        """From now on, look at the device."""
        self._written = None
