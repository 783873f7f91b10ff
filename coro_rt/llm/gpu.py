"""Models whose steps run on a GPU: weights, cache and buffers are there; here are tokens and text.

Greedy decoding reads back 16 bytes a token; a token that is drawn is drawn here, from logits that are read
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.devices.base import Device
from coro_rt.devices.gpu.device import GpuDevice
from coro_rt.devices.gpu.pages import ALWAYS, GpuPages
from coro_rt.devices.gpu.program import GpuProgram
from coro_rt.devices.gpu.workspace import GpuWorkspace
from coro_rt.errors import DeviceLost, MemoryBudgetExceeded
from coro_rt.kernels.kv import PAGE_POSITIONS

from . import bert
from .architecture import Hyperparameters
from .build import build, nbytes
from .decoder import Model
from .embed import EncoderModel
from .gguf_file import GGUFFile
from .loaded import Words
from .sequence import Sequence
from .step import ModelStep, advance, step


@step.on("gpu")
def _step_on_gpu(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    program, workspace = launch.args
    done = _run(device, program, workspace, slice_s, [launch])
    if done:  # read here, where it is watched
        device.check_numbers(workspace.outcome)
    return done


def _run(
    device: GpuDevice, program: GpuProgram, workspace: GpuWorkspace, slice_s: float, launches: Iterable[Any]
) -> bool:
    """Run quanta, and note for the launches what they took by the device's own clock."""
    before = device.counts.busy_s
    done = device.run(program, workspace, slice_s=slice_s)
    for launch in launches:
        launch.measured_s = device.counts.busy_s - before
    return done


@advance.jointly("gpu")
class GpuStep(ModelStep):
    """The rows of several sequences, in the device's buffers."""

    bursts = False

    def go(self, device: GpuDevice, program: GpuProgram, workspace: GpuWorkspace, slice_s: float) -> bool:
        return _run(device, program, workspace, slice_s, self.members)


class GpuModel(Model):
    """A model on one GPU. Its pages are the device's: they are neither shared nor parked."""

    device: GpuDevice

    def __init__(self, device: Device, *rest: Any, prefix_reuse: bool, words: Words | None = None) -> None:
        assert isinstance(device, GpuDevice), device
        super().__init__(device, *rest, prefix_reuse=False, words=words)

    @staticmethod
    def nbytes_of(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
        return nbytes(file, sizes, context) + ALWAYS * sizes.kv.page_bytes

    def build(self) -> GpuProgram:
        program = GpuProgram(self.device, self.sizes.widths, self.residency.budget)
        build(self.file, self.sizes, self.context, program)
        return program

    def _forget(self) -> None:
        program: GpuProgram | None = self._program
        if program is not None and program.pages is not None:
            program.pages.abandon()
        super()._forget()

    @property
    def pages(self) -> GpuPages:
        """For jobs, inside `in_use`."""
        pages: GpuPages | None = self.program.pages
        assert pages is not None
        return pages

    def new_sequence(self, *, reuse: bool = True) -> GpuSequence:
        return GpuSequence(self)

    def workspace_bytes(self, rows: int, tail: int) -> int:
        return GpuWorkspace.nbytes_of(self.sizes.widths, rows=rows, tail=tail)

    def new_workspace(self, rows: int, tail: int) -> GpuWorkspace:
        return GpuWorkspace(self.device, self.sizes.widths, rows=rows, tail=tail)

    def spare_page(self) -> tuple[int, Callable[[], None]]:
        pages = self.pages
        page = pages.take()
        return page, partial(pages.give_back, page)


class GpuEncoder(EncoderModel):
    """An encoder on one GPU. Pages belong to the buffers of a step, since no other needs them."""

    device: GpuDevice

    def build(self) -> GpuProgram:
        program = GpuProgram(self.device, self.sizes.widths)
        bert.build(self.file, self.sizes, program)
        return program

    def workspace_bytes(self, rows: int, tail: int) -> int:
        return GpuWorkspace.nbytes_of(self.sizes.widths, rows=rows, tail=tail)

    @contextmanager
    def _buffers(
        self, tokens: int, texts: int, pages: int
    ) -> Iterator[tuple[GpuWorkspace, NDArray[np.int64]]]:
        epoch = self.device.epoch
        workspace = GpuWorkspace(
            self.device, self.sizes.widths, rows=tokens, tail=texts, cache=(self.sizes.kv, pages)
        )
        try:
            yield workspace, np.arange(pages)
        finally:
            if self.device.fenced is None and self.device.epoch == epoch:  # else it is not to be touched
                workspace.release()


class GpuSequence(Sequence):
    """A sequence whose pages are the device's; its table has their numbers."""

    def __init__(self, model: GpuModel) -> None:
        super().__init__(model, None)
        self.gpu = model
        self._numbers: list[int] = []
        self._store_of_numbers: GpuPages | None = None
        self._epoch = model.device.epoch  # of the device, when its pages were taken

    @property
    def room(self) -> int:
        return len(self._numbers) * PAGE_POSITIONS - len(self.tokens)

    async def begin(self, prompt: Tokens[int], limit: int) -> int:
        device = self.gpu.device
        if self._epoch != device.epoch:  # a conversation's, from before the device failed
            self.release()
            self._epoch = device.epoch
        return await super().begin(prompt, limit)

    async def make_room(self, length: int, rows: int, *, own: bool = False, logits: bool = False) -> None:
        """Like `Sequence.make_room`, but a page that there is no memory for raises MemoryBudgetExceeded, or
        DeviceLost if it is the device that has none. That it also does when the device has been lost since
        `begin`.
        """
        self.check_there()
        await super().make_room(0, rows, own=own, logits=logits)
        self.take_pages(length, rows)

    def take_pages(self, length: int, rows: int) -> None:
        """Have pages for `length` tokens, and room on the device for a step of `rows`. Waits for nobody;
        raises like `make_room`.
        """
        self.model.check_lost()
        self.check_there()
        missing = -(-length // PAGE_POSITIONS) - len(self._numbers)
        if missing > 0:
            pages = self._store_of_numbers = self.gpu.pages
            for _ in range(missing):
                try:
                    page = pages.take()
                except (MemoryBudgetExceeded, DeviceLost):
                    self.model.workspaces.trim(rows)
                    page = self._take(pages)
                self._numbers.append(page)
            self._set_table()

    def check_there(self) -> None:
        """Raise DeviceLost if what the device held of it is gone."""
        device = self.gpu.device
        if self._epoch != device.epoch:
            raise DeviceLost(device.name, "lost", "it is back, but what it held of this text is gone")

    def _take(self, pages: GpuPages) -> int:
        """A page, or else the device is full, and fenced."""
        try:
            return pages.take()
        except DeviceLost as error:
            if error.reason == "memory":
                raise self.gpu.device.lose("memory", error.detail) from error
            raise

    def release(self) -> None:
        self._give_back()
        super().release()

    def __del__(self) -> None:
        self._give_back()  # of a conversation that was forgotten

    def _give_back(self) -> None:
        while self._numbers:
            assert self._store_of_numbers is not None
            self._store_of_numbers.give_back(self._numbers.pop())

    @property
    def next_bytes(self) -> int:
        return 0

    def _set_table(self) -> None:
        self.table = np.array(self._numbers, np.int64)
