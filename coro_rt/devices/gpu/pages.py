"""The keys and values of all sequences of a model, on the device: pages of 64 positions, by number.

There is a buffer for each layer, so that a layer's pages are one binding and a step may work on any number of
sequences. A few pages are always there. When they run out the buffers double, or grow by less if the budget
says so; what they hold is copied on the device, after everything that was submitted before. When nobody has a
page any more they are as small as in the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from coro_rt.errors import DeviceLost, MemoryBudgetExceeded
from coro_rt.kernels.kv import KVShape
from coro_rt.memory import MemoryBudget, Reservation, format_bytes

from .device import GpuDevice

ALWAYS = 8
"""Pages that are always there: whoever makes a `GpuPages` has reserved memory for them."""

_SLOW = 4  # pages that are added if there is no room for more


class GpuPages:
    """`take` is called by the device's worker alone, `give_back` from any thread."""

    def __init__(self, device: GpuDevice, shape: KVShape, budget: MemoryBudget | None = None) -> None:
        self._device, self.shape = device, shape
        self._budget = MemoryBudget() if budget is None else budget
        self._layer_bytes = shape.layer_bytes
        self._most = device.max_binding // self._layer_bytes
        self._lock = threading.Lock()
        self._reservation: Reservation | None = None  # for what is more than ALWAYS
        self._capacity = 0
        self._free: list[int] = []
        self._buffers: list[Any] = []
        self._groups: list[Any] = []

    def take(self) -> int:
        """The number of a page that nobody has. Raises MemoryBudgetExceeded if there is no room for more, and
        what `GpuDevice.buffer` does."""
        with self._lock:
            if not self._free:
                self._grow()
            return self._free.pop()

    def give_back(self, page: int) -> None:
        """Nobody needs it any more, once what was submitted is done."""
        with self._lock:
            self._free.append(page)
            if len(self._free) == self._capacity > ALWAYS:
                self._drop()

    def group(self, layer: int) -> Any:
        """The bind group of a layer's pages; asked for anew at every dispatch, because pages may move."""
        return self._groups[layer]

    def read(self, layer: int, numbers: Iterable[int]) -> Any:
        """uint8 [pages, bytes]: what pages hold of a layer, as `kernels/kv_words.py` has it. Waits. By the
        device's worker. Raises DeviceLost."""
        offsets = [int(number) * self._layer_bytes for number in numbers]
        return self._device.read_parts(self._buffers[layer], offsets, self._layer_bytes)

    def write(self, layer: int, numbers: Iterable[int], data: Any) -> None:
        """The opposite. By the device's worker. Raises DeviceLost."""
        for number, page in zip(numbers, data, strict=True):
            self._device.write(self._buffers[layer], page, int(number) * self._layer_bytes)

    def release(self) -> None:
        """Give all memory back, at once. Nobody may use the pages any more."""
        with self._lock:
            self._drop()

    def abandon(self) -> None:
        """The device is lost: forget them, without touching it."""
        with self._lock:
            self._forget()

    def _grow(self) -> None:
        if not self._capacity:
            self._move(min(ALWAYS, self._most))
        elif self._capacity < self._most:
            try:
                self._reserve_and_move(min(2 * self._capacity, self._most))
            except (MemoryBudgetExceeded, DeviceLost):
                self._reserve_and_move(min(self._capacity + _SLOW, self._most))
        if not self._free:
            raise MemoryBudgetExceeded(
                f"the device {self._device.name!r} binds {format_bytes(self._device.max_binding)} at once, "
                f"which is {self._most} pages of keys and values, and all are in use"
            )

    def _reserve_and_move(self, capacity: int) -> None:
        """While pages move there are two of each, so both are reserved."""
        nbytes = (capacity - ALWAYS) * self.shape.page_bytes
        reservation = self._budget.reserve(nbytes, f"{capacity} pages of keys and values")
        try:
            with self._budget.reserve(ALWAYS * self.shape.page_bytes, "moving pages of keys and values"):
                self._move(capacity)
        except BaseException:
            reservation.release()
            raise
        if self._reservation is not None:
            self._reservation.release()
        self._reservation = reservation

    def _move(self, capacity: int) -> None:
        buffers = [self._device.buffer(capacity * self._layer_bytes) for _ in range(self.shape.layers)]
        if self._buffers:
            device = self._device.device
            encoder = device.create_command_encoder()
            for old, new in zip(self._buffers, buffers, strict=True):
                encoder.copy_buffer_to_buffer(old, 0, new, 0, self._capacity * self._layer_bytes)
            device.queue.submit([encoder.finish()])
            for old in self._buffers:
                old.destroy()
        self._buffers = buffers
        self._groups = [self._device.pipelines.bind(3, buffer) for buffer in buffers]
        self._free += range(capacity - 1, self._capacity - 1, -1)
        self._capacity = capacity

    def _drop(self) -> None:
        for buffer in self._buffers:
            buffer.destroy()
        self._forget()

    def _forget(self) -> None:
        self._buffers, self._groups, self._free, self._capacity = [], [], [], 0
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
