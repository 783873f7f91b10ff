"""Keys and values between a GPU and the CPU: a text that one has read is not read again by the other.

They are the same bytes on both, in another layout, and go layer by layer. So a generation that moves takes
them along, and a GPU may read a prompt for the CPU that writes: into pages of its own, which live as
long as that takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from coro_rt.devices.gpu.device import GpuDevice
from coro_rt.errors import DeviceLost, MemoryBudgetExceeded
from coro_rt.kernel import Kernel
from coro_rt.kernels import kv_arrays, kv_words
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.schedulers.pace import CHUNK
from coro_rt.traps import current_job, move_to

from .gpu import GpuModel, GpuSequence
from .places import Places, go_to
from .reader import ReadingTimes
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
"""Keys and values from memory into the GPU's pages, in whole pages."""


def _layer_by_layer(move: Callable[[GpuDevice, Handover, int], None]) -> Any:
    def run(device: GpuDevice, launch: Any, slice_s: float) -> bool:
        handover: Handover = launch.args[0]
        layers, end = handover.model.sizes.kv.layers, perf_counter() + slice_s
        while handover.done < layers:
            handover.model.check_lost()
            handover.theirs.check_there()
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
    k, v, scales = kv_words.unpack(kv, data)
    k, v, scales = k[found], v[found], None if scales is None else scales[:, :, found]
    for numbers in (k, v) if scales is None else (scales,):
        device.check_numbers(numbers)
    kv_arrays.put(kv, handover.ours.table, layer, start, k, v, scales)


@give.on("gpu")
@_layer_by_layer
def _give_layer(device: GpuDevice, handover: Handover, layer: int) -> None:
    kv, numbers = handover.model.sizes.kv, handover.pages
    length = -(-handover.stop // PAGE_POSITIONS) * PAGE_POSITIONS
    k, v, scales = kv_arrays.take(kv, handover.ours.table, layer, handover.stop, length)
    new = slice(length - len(numbers) * PAGE_POSITIONS, length)
    data = kv_words.pack(kv, k[new], v[new], None if scales is None else scales[:, :, new])
    handover.model.pages.write(layer, numbers, data)


async def hand_over(here: Sequence, there: Sequence) -> float:
    """Give `there` what `here` has computed beyond it; one of them is on a GPU, the other on the CPU. Both
    are pinned, and `there` has room. The job is where `there` is. Gives the seconds that it took.

    Raises DeviceLost, with the job on either device; nothing has been given then.
    """
    job = current_job()
    start, stop, before_s = len(there.tokens), len(here.tokens), job.kernel_s
    if start >= stop:
        return 0.0
    if isinstance(there, GpuSequence):
        await give(Handover(there.gpu, here, there, start, stop))
    else:
        assert isinstance(here, GpuSequence), here
        home = job.worker.name
        await go_to(here.gpu.device.name)
        await fetch(Handover(here.gpu, there, here, start, stop))
        await go_to(home)
    there.extend(here.tokens[start:stop])
    return job.kernel_s - before_s


class GpuReader:
    """Reads with a model on a GPU: see `Reader`. It keeps nothing."""

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
        # Nothing here waits for memory: others might wait for what `ours` holds, which is pinned. A step for
        # which there is not enough is smaller.
        theirs.take_pages(length, min(len(tokens), CHUNK))
        with theirs.pinned():
            handed_s, read_s = await hand_over(ours, theirs), 0.0
        while (left := length - len(theirs.tokens)) > 0:
            chunk = tokens[len(tokens) - left :][:CHUNK]
            job.predict(model.pace.left_s(left, 0) + following_s)
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
