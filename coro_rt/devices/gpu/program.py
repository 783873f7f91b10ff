"""A model's step as a list of dispatches: what `kernels.program.Program` is on the CPU, built by the same
calls.

Everything that does not change from step to step is made here once: pipelines, weights on the device,
numbers, bind groups. A step then only sets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coro_rt.kernels.attention import EVERYTHING
from coro_rt.kernels.formats import BLOCK, Bytes, Floats, Format
from coro_rt.kernels.gated import Activation
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.planar import PlanarMatrix
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.shaders import lanes
from coro_rt.kernels.workspace import Widths
from coro_rt.memory import MemoryBudget

from .device import GpuDevice
from .dispatch import TILES, Dispatch, Operands, When
from .matrix import GpuMatrix
from .pages import GpuPages
from .workspace import GpuWorkspace, row_words

_WORKGROUP = 128
_FIELDS = (
    "rows", "first", "columns", "x_stride", "y_stride", "q_stride", "offset", "scales_stride", "upper",
    "heads", "kv_heads", "head_size", "pairs", "window", "shift_stride", "add", "tail", "quantize",
)  # fmt: skip
_SLOT = 256  # bytes from one operation's numbers to the next: how uniform bindings are aligned


class GpuProgram:
    """Append with the methods, then `finish`; read-only afterwards. `pages`: the cache that it writes.

    Weights, and the few pages that are always there, are reserved by whoever makes it; more pages in
    `budget`.
    """

    def __init__(self, device: GpuDevice, widths: Widths, budget: MemoryBudget | None = None) -> None:
        self.device, self.widths = device, widths
        self.dispatches: list[Dispatch] = []
        self.pages: GpuPages | None = None
        self._budget = budget
        self._words = row_words(widths)
        self._numbers: list[np.ndarray[Any, Any]] = []
        self._pending: list[Callable[[], Dispatch]] = []
        # by id: an array, kept for its id, and its buffer
        self._uploaded: dict[int, tuple[Floats, Any]] = {}
        self._nothing = device.buffer(16)
        self._buffers: dict[int, Any] = {}  # by id: all that its dispatches read
        self._seconds = 1e-10  # for a unit of cost, as measured

    def pack(self, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> GpuMatrix:
        """Stack matrices of one format on top of each other and upload them; see `PlanarMatrix.pack`."""
        return GpuMatrix(self.device, PlanarMatrix.pack(format, *parts))

    def finish(self) -> GpuProgram:
        slots = np.zeros((len(self._numbers), _SLOT), np.uint8)
        for at, numbers in enumerate(self._numbers):
            slots[at, : numbers.nbytes] = numbers.view(np.uint8)
        self._slots = self.device.upload(slots)
        self.dispatches = [make() for make in self._pending]
        self._pending.clear()
        self._uploaded.clear()
        return self

    def release(self) -> None:
        """Give weights and pages back, at once. No step may follow."""
        for buffer in (*self._buffers.values(), self._slots, self._nothing):
            buffer.destroy()
        self._buffers.clear()
        self.dispatches.clear()
        if self.pages is not None:
            self.pages.release()

    # The operations

    def embed(self, weight: GpuMatrix, *, out: Buffer, scale: float = 1.0) -> None:
        blocks = weight.columns // BLOCK
        for piece in weight.pieces:
            self._add(
                "embed", (None, out, None), weights=(piece.codes, piece.scales), form=weight.format,
                across=-(-blocks // 32), number=scale, rows=piece.rows,
                first=piece.first, columns=weight.columns, scales_stride=piece.scales_stride,
                upper=piece.upper,
            )  # fmt: skip

    def norm(
        self, weight: Floats, eps: float, columns: int, *, source: Buffer, out: Buffer, qout: Buffer | None,
        add: bool = False, tail: bool = False,
    ) -> None:  # fmt: skip
        self._add(
            "norm", (source, out, qout), weights=(self._upload(weight),), number=eps, columns=columns,
            add=add, tail=tail,
        )  # fmt: skip

    def matmul(
        self, weight: GpuMatrix, *, source: Buffer, out: Buffer, offset: int = 0, add: bool = False,
        tail: bool = False,
    ) -> None:  # fmt: skip
        share = lanes(weight.columns)
        each = _WORKGROUP // share
        for piece in weight.pieces:
            self._add(
                "matmul", (source, out, None), weights=(piece.codes, piece.scales), form=weight.format,
                across=-(-piece.rows // each), offset=offset,
                rows=piece.rows, first=piece.first, columns=weight.columns, upper=piece.upper, add=add,
                tail=tail,
                scales_stride=piece.scales_stride, x_stride=self._words[source] // 4, tiles=TILES,
                constants={"LANES": share, "ROWS": each}, cost=piece.codes.size,
            )  # fmt: skip

    def bias(self, values: Floats, *, out: Buffer, tail: bool = False) -> None:
        columns = len(values)
        self._add(
            "bias", (None, out, None), weights=(self._upload(values),), columns=columns, tail=tail,
            across=-(-columns // 64),
        )  # fmt: skip

    def rope_kv(
        self, kv: KVShape, layer: int, heads: int, turns: Floats, *, halves: bool, qkv: Buffer,
        norms: tuple[Floats, Floats] | None = None, eps: float = 0.0,
    ) -> None:  # fmt: skip
        weights = [self._upload(turns)]
        if norms is not None:
            weights.append(self.device.upload(np.concatenate(norms)))
        self._add(
            "rope_kv", (None, qkv, None), weights=weights, number=eps, heads=heads, kv_heads=kv.heads,
            head_size=kv.head_size, pairs=turns.shape[1], layer=self._layer(kv, layer),
            across=heads + kv.heads,
            constants={
                "SIZE": kv.head_size, "KV_BITS": kv.bits, "HALVES": halves, "HEAD_NORMS": norms is not None,
            },
        )  # fmt: skip

    def attend(
        self, kv: KVShape, layer: int, heads: int, *, qkv: Buffer, out: Buffer, qout: Buffer | None,
        window: int = 0, scale: float | None = None, whole: bool = False,
    ) -> None:  # fmt: skip
        """As for the CPU. A few rows with long contexts are shared out by split, with the same result."""

        def add(kernel: str, operands: Operands, when: When, layer: int | None, **constants: int) -> None:
            self._add(
                kernel, operands, number=kv.head_size**-0.5 if scale is None else scale, heads=heads,
                kv_heads=kv.heads, head_size=kv.head_size, window=window or EVERYTHING, when=when,
                layer=layer, columns=heads * kv.head_size, across=heads,
                constants={"SIZE": kv.head_size, "WHOLE": whole} | constants,
            )  # fmt: skip

        layer = self._layer(kv, layer)
        add("attend", (qkv, out, qout), When.TOGETHER, layer, KV_BITS=kv.bits, ALONE=False)
        add("attend", (qkv, Buffer.PARTS, None), When.SPLIT, layer, KV_BITS=kv.bits, ALONE=True)
        add("fold", (Buffer.PARTS, out, qout), When.FOLDED, None)

    def gate(
        self, columns: int, *, gate_up: Buffer, out: Buffer, qout: Buffer | None,
        activation: Activation = Activation.SILU,
    ) -> None:  # fmt: skip
        self._add(
            "gate", (gate_up, out, qout), columns=columns, constants={"GELU": activation is Activation.GELU},
            across=-(-columns // BLOCK // 32),
        )  # fmt: skip

    def summary(self, vocabulary: int, *, logits: Buffer, out: Buffer) -> None:
        self._add("summary", (logits, None, out), columns=vocabulary, tail=True, cost=vocabulary * 4)

    def layer_norm(
        self, weight: Floats, bias: Floats, eps: float, *, out: Buffer, qout: Buffer | None, shift: Floats
    ) -> None:
        columns = len(weight)
        weights = self.device.upload(np.concatenate([weight, bias])), self._upload(shift)
        self._add(
            "layer_norm", (None, out, qout), weights=weights, number=eps, columns=columns,
            shift_stride=columns if shift.ndim == 2 else 0,
        )  # fmt: skip

    def gelu(self, shift: Floats, *, out: Buffer, qout: Buffer | None) -> None:
        self._add(
            "gelu", (None, out, qout), weights=(self._upload(shift),), columns=len(shift),
            across=-(-len(shift) // BLOCK // 32),
        )  # fmt: skip

    def pool(self, columns: int, *, source: Buffer, out: Buffer) -> None:
        self._add("pool", (source, out, None), columns=columns, tail=True)

    def quantize(self, columns: int, *, source: Buffer, out: Buffer) -> None:
        """Rows as int8, for a product that stands alone."""
        self._add(
            "rows_quantized", (source, None, out), columns=columns,
            across=-(-columns // BLOCK // 32),
        )  # fmt: skip

    # Running it

    def encode(self, begun: Any, workspace: GpuWorkspace) -> tuple[int, float]:
        """Put dispatches of about one quantum, at least one, into a pass that has begun. Gives how many, and
        their cost.
        """
        begun.set_bind_group(0, workspace.step_group)
        count, cost, most = 0, 0.0, self.device.quantum_s / self._seconds
        while workspace.at < len(self.dispatches) and (count == 0 or cost < most):
            taken = self.dispatches[workspace.at].encode(begun, workspace, self.pages)
            workspace.at += 1
            count += taken > 0
            cost += taken
        return count, cost

    def learn(self, cost: float, seconds: float) -> None:
        """What a submission of this cost took: the next ones are made to last a quantum.

        One that took long for another reason (a driver may compile at the first use) counts only in part.
        """
        if cost > 0:
            self._seconds += 0.2 * (min(seconds / cost, 8 * self._seconds) - self._seconds)

    # Recording

    def _layer(self, kv: KVShape, layer: int) -> int:
        if self.pages is None:
            self.pages = GpuPages(self.device, kv, self._budget)
        assert self.pages.shape == kv, (self.pages.shape, kv)
        return layer

    def _upload(self, array: Floats) -> Any:
        """An array's buffer; the same for all that are given the same array."""
        if id(array) not in self._uploaded:
            self._uploaded[id(array)] = array, self.device.upload(array)
        return self._uploaded[id(array)][1]

    def _add(
        self,
        kernel: str,
        operands: Operands,
        *,
        across: int = 1,
        weights: Any = (),
        form: Format | None = None,
        constants: dict[str, int | bool] | None = None,
        tiles: tuple[int, ...] = (),
        layer: int | None = None,
        when: When = When.ALWAYS,
        cost: int = 16384,
        number: float = 0.0,
        **fields: int,
    ) -> None:
        strides = (0 if buffer is None else self._words[buffer] for buffer in operands)
        fields = dict(zip(("x_stride", "y_stride", "q_stride"), strides, strict=True)) | fields
        fields["quantize"] = operands[2] is not None
        numbers = np.array([fields.get(name, 0) for name in _FIELDS], np.uint32)
        self._numbers.append(np.append(numbers, np.float32(number).view(np.uint32)))
        at = len(self._numbers) - 1
        get = self.device.pipelines.get
        if tiles:
            pipelines = {tile: get(kernel, form=form, TOKENS=tile, **(constants or {})) for tile in tiles}
        else:
            pipelines = {1: get(kernel, form=form, **(constants or {}))}

        def make() -> Dispatch:
            self._buffers.update((id(buffer), buffer) for buffer in weights)
            buffers = (*weights, self._nothing, self._nothing)[:2]
            group = self.device.pipelines.bind(2, (self._slots, at * _SLOT, _SLOT), *buffers)
            return Dispatch(pipelines, across, operands, group, bool(fields.get("tail")), when, layer, cost)

        self._pending.append(make)
