"""Reading a prompt on a GPU for the CPU that writes: keys and values are computed there and handed over.

The GPU reads into pages of its own, which live as long as that takes. What the sequence held before goes to
the GPU first, and what was read comes back, layer by layer, as the float16 values that it is on both: the
text is read once, whoever goes on with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from coro_rt.devices.gpu.device import GpuDevice
from coro_rt.errors import DeviceLost, MemoryBudgetExceeded
from coro_rt.kernel import Kernel
from coro_rt.kernels import kv_arrays, kv_words
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.schedulers.pace import CHUNK
from coro_rt.traps import current_job, move_to

from .gpu import GpuModel, GpuSequence
from .places import Places, ReadingTimes, go_to
from .sequence import Sequence
from .step import Part, advance

__all__ = ["GpuReader"]

logger = logging.getLogger("coro_rt")


@dataclass(slots=True)
class Handover:
    """The positions from `start` to `stop`, between a sequence's pages in memory and those of one on the GPU.
    A suspended launch goes on with layer `done`. Both are pinned.
    """

    model: GpuModel
    ours: Sequence
    theirs: GpuSequence
    start: int
    stop: int
    done: int = 0

    @property
    def pages(self) -> Any:
        """The numbers of the GPU's pages that hold them."""
        return self.theirs.table[self.start // PAGE_POSITIONS : -(-self.stop // PAGE_POSITIONS)]


fetch: Kernel[[Handover], None] = Kernel("llm.fetch")
"""Keys and values from the GPU's pages into memory."""

give: Kernel[[Handover], None] = Kernel("llm.give")
"""Keys and values from memory into the GPU's pages, from position 0 on."""


def _layer_by_layer(move: Callable[[GpuDevice, Handover, int], None]) -> Any:
    def run(device: GpuDevice, launch: Any, slice_s: float) -> bool:
        handover: Handover = launch.args[0]
        layers, end = handover.model.sizes.kv.layers, perf_counter() + slice_s
        while handover.done < layers:
            handover.model.check_lost()
            move(device, handover, handover.done)
            handover.done += 1
            if device.preempt_requested() or perf_counter() >= end:
                break
        return handover.done == layers

    return run


@fetch.on("gpu")
@_layer_by_layer
def _fetch_layer(device: GpuDevice, handover: Handover, layer: int) -> None:
    kv, start = handover.model.sizes.kv, handover.start
    data = handover.model.pages.read(layer, handover.pages)
    found = slice(start % PAGE_POSITIONS, start % PAGE_POSITIONS + handover.stop - start)
    k, v = (values[found] for values in kv_words.unpack(kv, data))
    device.check_numbers(k)
    device.check_numbers(v)
    kv_arrays.write(kv, handover.ours.table, layer, start, k, v)


@give.on("gpu")
@_layer_by_layer
def _give_layer(device: GpuDevice, handover: Handover, layer: int) -> None:
    kv, numbers = handover.model.sizes.kv, handover.pages
    k = np.zeros((len(numbers) * PAGE_POSITIONS, kv.heads, kv.head_size), np.float16)
    v = np.zeros_like(k)
    kv_arrays.read(kv, handover.ours.table, layer, handover.stop, k, v)
    handover.model.pages.write(layer, numbers, kv_words.pack(kv, k, v))


class GpuReader:
    """Reads with a model on a GPU: see `places.Reader`. It keeps nothing."""

    def __init__(self, places: Places, device: str) -> None:
        self._places, self._device = places, device

    async def read(self, sequence: Sequence, tokens: list[int], following_s: float) -> ReadingTimes:
        job, home = current_job(), current_job().worker.name
        times = ReadingTimes()
        try:
            if not self._places.fits(self._device, len(sequence.tokens) + len(tokens)):
                raise MemoryBudgetExceeded(f"there is no room for {len(tokens)} more tokens")
            await go_to(self._device)
            times = await self._read(sequence, tokens, following_s)
        except (DeviceLost, MemoryBudgetExceeded) as error:
            if isinstance(error, DeviceLost) and error.device != self._device:
                raise
            logger.debug("%s is not read on %r: %s", job.name, self._device, error)
        if job.worker.name != home:
            await move_to(home)
        return times

    async def _read(self, sequence: Sequence, tokens: list[int], following_s: float) -> ReadingTimes:
        model = self._places.model(self._device)
        assert isinstance(model, GpuModel)
        try:
            async with model.in_use():
                theirs = model.new_sequence()
                try:
                    with theirs.used_by(current_job()):
                        return await self._hand_over(sequence, theirs, tokens, following_s)
                finally:
                    theirs.release()
        except DeviceLost as lost:
            self._places.drop(model, lost)
            raise

    async def _hand_over(
        self, ours: Sequence, theirs: GpuSequence, tokens: list[int], following_s: float
    ) -> ReadingTimes:
        job, model, held = current_job(), theirs.gpu, len(ours.tokens)
        length = held + len(tokens)
        await theirs.make_room(length, rows=min(len(tokens), CHUNK))
        before_s = job.kernel_s
        if held:
            with theirs.pinned():
                await give(Handover(model, ours, theirs, 0, held))
            theirs.extend(ours.tokens)
        handed_s, read_s = job.kernel_s - before_s, 0.0
        while (left := length - len(theirs.tokens)) > 0:
            chunk = tokens[len(tokens) - left :][:CHUNK]
            job.predict(model.pace.left_s(left, 0) + following_s)
            await theirs.make_room(length, rows=len(chunk))
            with theirs.pinned():
                done = await advance(Part(model, theirs, chunk, wanted=False))
            theirs.extend(chunk[: done.taken])
            read_s += done.seconds
        before_s = job.kernel_s
        with theirs.pinned():
            await fetch(Handover(model, ours, theirs, held, length))
        ours.extend(tokens)
        handed_s += job.kernel_s - before_s
        return ReadingTimes(read_s, handed_s)
