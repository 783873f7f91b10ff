"""Single operations on arrays on an NPU: what `kernels.launch` needs to run its functions there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.kernels import activations
from coro_rt.kernels.formats import BLOCK, F32, Floats
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.workspace import Widths

from .device import NpuDevice
from .graph import Graph, Numbers
from .program import NpuMatrix, NpuProgram, Shape


class OnNpu:
    """A `kernels.launch.Runner`, with matrices in float32, so that bounds are those of the operations alone.

    Embeddings are looked up, and int8 rows made, in NumPy: that is not the NPU's.
    """

    def __init__(self, device: NpuDevice) -> None:
        self._device = device

    def matrix(self, w: PackedMatrix) -> NpuMatrix:
        raw = w.dequantize().view(np.uint8)
        return NpuMatrix(F32, w.rows, w.columns, ((raw, (w.rows, w.columns)),))

    def program(self, widths: Widths) -> NpuProgram:
        return NpuProgram()

    def workspace(self, widths: Widths, rows: int) -> Arrays:
        return Arrays(rows)

    def pages(self, program: NpuProgram, kv: KVShape, positions: int) -> NDArray[np.int64]:
        return np.zeros(1, np.int64)

    def quantize(self, workspace: Arrays, columns: int) -> tuple[NDArray[np.int8], Floats]:
        q, scale = activations.reference(workspace.floats(Buffer.NORMED)[:, :columns])
        workspace.floats(Buffer.QNORMED)[:, :columns] = q * np.repeat(scale, BLOCK, axis=1)
        return q, scale

    def run(self, program: NpuProgram, workspace: Arrays) -> None:
        if program.embedding is not None:
            workspace.buffers[Buffer.HIDDEN] = program.embedding(workspace.tokens)
            return
        shape = Shape(workspace.rows, 0)
        graph = Graph(shape, Numbers("float32"))
        graph.add(program, range(len(program.calls)))
        outputs: set[Buffer] = {call.args.get("out") or call.args["qkv"] for call in program.calls}
        for buffer in outputs:
            graph.give(buffer)
        session = self._device.open(graph.model().SerializeToString())
        fed = program.inputs(shape, 0, workspace.rows)
        for each in session.inputs:
            if each.name.startswith("in."):
                values = workspace.floats(Buffer[each.name[3:]])
                fed[each.name] = np.ascontiguousarray(values[:, : each.shape[1]])
        got = self._device.run(session, fed)
        assert got is not None
        workspace.buffers = {buffer: got[buffer.name] for buffer in outputs}


class Arrays:
    """A workspace of arrays, each as wide as the first that looks at it needs."""

    WIDEST = 16384

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.buffers: dict[Buffer, Any] = {}

    def begin(
        self, tokens: NDArray[np.int32], positions: NDArray[np.int32], pages: list[NDArray[np.int64]], *,
        tail: int,
    ) -> None:  # fmt: skip
        self.tokens = tokens

    def floats(self, buffer: Buffer) -> Floats:
        if buffer not in self.buffers:
            self.buffers[buffer] = np.zeros((self.rows, self.WIDEST), np.float32)
        values: Floats = self.buffers[buffer]
        return values
