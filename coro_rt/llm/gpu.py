"""A language model whose steps run on a GPU: weights, cache and buffers are there; here are tokens and text.

Greedy decoding reads back 16 bytes a token; a token that is drawn is drawn here, from logits that are read
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from coro_rt.devices.base import Device
from coro_rt.devices.gpu.device import GpuDevice
from coro_rt.devices.gpu.pages import ALWAYS, GpuPages
from coro_rt.devices.gpu.program import GpuProgram
from coro_rt.devices.gpu.workspace import GpuWorkspace
from coro_rt.errors import MemoryBudgetExceeded, TemplateError
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.kernels.operations import Steps
from coro_rt.memory import MemoryBudget

from .architecture import Hyperparameters
from .build import build
from .build import nbytes as weight_bytes
from .gguf_file import GGUFFile
from .model import Model
from .sequence import Sequence
from .step import ModelStep, advance, step
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .workspaces import Workspaces


@step.on("gpu")
def _step_on_gpu(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    program, workspace = launch.args
    before = device.counts.busy_s
    done = device.run(program, workspace, slice_s=slice_s)
    launch.measured_s = device.counts.busy_s - before
    return done


@advance.jointly("gpu")
class GpuStep(ModelStep):
    """The rows of several sequences, in the device's buffers."""

    bursts = False

    def go(self, device: GpuDevice, program: GpuProgram, workspace: GpuWorkspace, slice_s: float) -> bool:
        before = device.counts.busy_s
        done = device.run(program, workspace, slice_s=slice_s)
        for launch in self.members:
            launch.measured_s = device.counts.busy_s - before
        return done


def nbytes(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
    """What `load` will take, to be asked of the memory budget first."""
    return weight_bytes(file, sizes, context) + ALWAYS * sizes.kv.page_bytes


def load(
    device: Device,
    file: GGUFFile,
    sizes: Hyperparameters,
    tokenizer: Tokenizer,
    template: ChatTemplate | TemplateError,
    context: int,
    budget: MemoryBudget,
    name: str,
) -> GpuModel:
    """The model in a file, its weights on the device. See `build` for what it raises."""
    assert isinstance(device, GpuDevice), device
    program = GpuProgram(device, sizes.widths, budget)
    build(file, sizes, context, program)
    return GpuModel(program, sizes, tokenizer, template, context, 1, budget, name)


class GpuModel(Model):
    """A model on one GPU."""

    program: GpuProgram

    def __init__(self, program: GpuProgram, sizes: Hyperparameters, *rest: Any) -> None:
        super().__init__(program, sizes, *rest)
        self.workspaces = GpuWorkspaces(program, sizes, self._budget)

    def release(self) -> None:
        self.program.release()

    def new_sequence(self) -> GpuSequence:
        assert self.program.pages is not None
        return GpuSequence(self.program.pages, self._budget, self.workspaces.clear)

    @contextmanager
    def workspace(self, rows: int) -> Iterator[Steps]:
        """A job's own buffers, for steps of up to `rows` tokens with logits for each."""
        shape = {"rows": rows, "tail": rows}
        nbytes = GpuWorkspace.nbytes_of(self.sizes.widths, **shape)
        with self._budget.reserve(nbytes, f"a step of {rows} tokens"):
            workspace = GpuWorkspace(self.program.device, self.sizes.widths, **shape)
            try:
                yield workspace
            finally:
                workspace.release()


class GpuWorkspaces(Workspaces):
    """Workspaces and a spare page on the device."""

    def __init__(self, program: GpuProgram, sizes: Hyperparameters, budget: MemoryBudget) -> None:
        super().__init__(sizes.widths, sizes.kv, 1, budget)
        self._program = program

    def _nbytes(self, rows: int, tail: int) -> int:
        return GpuWorkspace.nbytes_of(self._widths, rows=rows, tail=tail)

    def _make(self, rows: int, tail: int) -> Steps:
        return GpuWorkspace(self._program.device, self._widths, rows=rows, tail=tail)

    def _spare_page(self) -> tuple[int, Callable[[], None]]:
        pages = self._program.pages
        assert pages is not None
        page = pages.take()
        return page, partial(pages.give_back, page)


class GpuSequence(Sequence):
    """A sequence whose pages are the device's; its table has their numbers."""

    def __init__(self, pages: GpuPages, budget: MemoryBudget, spare: Callable[[], None]) -> None:
        super().__init__(pages.shape, budget, spare)
        self._store = pages
        self._numbers: list[int] = []

    @property
    def room(self) -> int:
        return len(self._numbers) * PAGE_POSITIONS - len(self.tokens)

    def make_room(self, length: int) -> None:
        """Have pages for `length` tokens. Raises MemoryBudgetExceeded; what there was stays."""
        missing = -(-length // PAGE_POSITIONS) - len(self._numbers)
        if missing > 0:
            for _ in range(missing):
                try:
                    page = self._store.take()
                except MemoryBudgetExceeded:
                    self._spare()
                    page = self._store.take()
                self._numbers.append(page)
            self.table = np.array(self._numbers, np.int64)

    def release(self) -> None:
        """Give the pages back. The sequence is empty then, and may be used again."""
        while self._numbers:
            self._store.give_back(self._numbers.pop())
        super().release()
