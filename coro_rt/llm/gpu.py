"""A language model whose steps run on a GPU: weights, cache and buffers are there; here are tokens and text.

Greedy decoding reads back 16 bytes a token; a token that is drawn is drawn here, from logits that are read
back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from coro_rt.devices.base import Device
from coro_rt.devices.gpu.device import GpuDevice
from coro_rt.devices.gpu.pages import ALWAYS, GpuPages
from coro_rt.devices.gpu.program import GpuProgram
from coro_rt.devices.gpu.workspace import GpuWorkspace
from coro_rt.errors import TemplateError
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.kernels.operations import Steps
from coro_rt.memory import MemoryBudget

from .architecture import Hyperparameters
from .build import build
from .build import nbytes as weight_bytes
from .generate import step
from .gguf_file import GGUFFile
from .model import Model
from .sequence import Sequence
from .template import ChatTemplate
from .tokenizer import Tokenizer


@step.on("gpu")
def _step_on_gpu(device: GpuDevice, launch: Any, slice_s: float) -> bool:
    program, workspace = launch.args
    before = device.counts.busy_s
    done = device.run(program, workspace, slice_s=slice_s)
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

    def release(self) -> None:
        self.program.release()

    def new_sequence(self) -> GpuSequence:
        assert self.program.pages is not None
        return GpuSequence(self.program.pages, self._budget)

    @contextmanager
    def workspace(self, rows: int, *, every_token: bool = False) -> Iterator[Steps]:
        """Buffers for steps of up to `rows` tokens, with logits for the last one or for each."""
        shape = {"rows": rows, "tail": rows if every_token else 1}
        nbytes = GpuWorkspace.nbytes_of(self.sizes.widths, **shape)
        with self._budget.reserve(nbytes, f"a step of {rows} tokens"):
            workspace = GpuWorkspace(self.program.device, self.sizes.widths, **shape)
            try:
                yield workspace
            finally:
                workspace.release()


class GpuSequence(Sequence):
    """A sequence whose pages are the device's; its table has their numbers."""

    def __init__(self, pages: GpuPages, budget: MemoryBudget) -> None:
        super().__init__(pages.shape, budget)
        self._store = pages
        self._numbers: list[int] = []

    def make_room(self, length: int) -> None:
        """Have pages for `length` tokens. Raises MemoryBudgetExceeded; what there was stays."""
        missing = -(-length // PAGE_POSITIONS) - len(self._numbers)
        if missing > 0:
            for _ in range(missing):
                self._numbers.append(self._store.take())
            self.table = np.array(self._numbers, np.int64)

    def release(self) -> None:
        """Give the pages back. The sequence is empty then, and may be used again."""
        while self._numbers:
            self._store.give_back(self._numbers.pop())
        super().release()
