"""The keys and values of all sequences of a model, on the device: pages of 64 positions, by number.

There is a buffer for each layer, so that a layer's pages are one binding and a step may work on any number of
sequences. When pages run out, the buffers double; what they hold is copied on the device, after everything
that was submitted before.
"""

from __future__ import annotations

from typing import Any

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape
from coro_rt.memory import format_bytes

from .device import GpuDevice

_FIRST = 8


class GpuPages:
    """Used by the device's worker alone."""

    def __init__(self, device: GpuDevice, shape: KVShape) -> None:
        if shape.bits != 16:
            raise ValueError(f"a GPU keeps keys and values in 16 bits, not in {shape.bits}")
        self._device, self.shape = device, shape
        self._layer_bytes = PAGE_POSITIONS * shape.heads * shape.head_size * 4
        self._capacity = 0
        self._free: list[int] = []
        self._buffers: list[Any] = []
        self._groups: list[Any] = []

    def take(self) -> int:
        """The number of a page that nobody has. Raises MemoryBudgetExceeded when the device has no room."""
        if not self._free:
            self._grow()
        return self._free.pop()

    def give_back(self, page: int) -> None:
        self._free.append(page)

    def group(self, layer: int) -> Any:
        """The bind group of a layer's pages; asked for anew at every dispatch, because pages may move."""
        return self._groups[layer]

    def _grow(self) -> None:
        most = self._device.max_binding // self._layer_bytes
        capacity = min(max(2 * self._capacity, _FIRST), most)
        if capacity <= self._capacity:
            raise MemoryBudgetExceeded(
                f"the device {self._device.name!r} binds {format_bytes(self._device.max_binding)} at once, "
                f"which is {most} pages of keys and values, and all are in use"
            )
        device = self._device.device
        buffers = [self._device.buffer(capacity * self._layer_bytes) for _ in range(self.shape.layers)]
        if self._buffers:
            encoder = device.create_command_encoder()
            for old, new in zip(self._buffers, buffers, strict=True):
                encoder.copy_buffer_to_buffer(old, 0, new, 0, self._capacity * self._layer_bytes)
            device.queue.submit([encoder.finish()])
        self._buffers = buffers
        self._groups = [self._device.pipelines.bind(3, buffer) for buffer in buffers]
        self._free += range(capacity - 1, self._capacity - 1, -1)
        self._capacity = capacity
