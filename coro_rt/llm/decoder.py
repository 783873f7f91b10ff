"""A decoder on one device: what its jobs share. An `LLM` has one for each of its places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from coro_rt.devices.base import Device
from coro_rt.errors import DeviceLost, TemplateError
from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.kernels.program import Program
from coro_rt.memory.budget import Kind
from coro_rt.memory.holders import Holder
from coro_rt.memory.pages import Page
from coro_rt.memory.prefixes import Prefixes
from coro_rt.memory.residency import Residency
from coro_rt.schedulers.pace import CHUNK
from coro_rt.traps import current_job

from .architecture import Hyperparameters
from .build import build, nbytes
from .gguf_file import GGUFFile
from .loaded import Loaded, Words
from .sequence import Sequence
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .turnaround import Turnaround
from .workspaces import Workspaces


class Model(Loaded):
    """What the jobs share that generate with one model on one device. Its program runs on the CPU; other
    devices have subclasses.
    """

    def __init__(
        self,
        device: Device,
        file: GGUFFile,
        sizes: Hyperparameters,
        tokenizer: Tokenizer,
        template: ChatTemplate | TemplateError,
        context: int,
        residency: Residency,
        *,
        prefix_reuse: bool,
        words: Words | None = None,
    ) -> None:
        size = self.nbytes_of(file, sizes, context)
        words = words or Words(sizes.vocabulary)
        super().__init__(device, file, size, sizes.widths, words, context, residency)
        self.sizes, self.tokenizer, self.template = sizes, tokenizer, template
        self.workspaces = Workspaces(self)
        self.prefixes = Prefixes(residency.pages) if prefix_reuse else None
        self.turnaround = Turnaround()
        self.ends = np.array(sorted(tokenizer.eos_ids), np.int32)

    def on(self, device: Device, kind: type[Model], *, prefix_reuse: bool) -> Model:
        """The same for another device; of what is in memory they share the tokenizer."""
        return kind(
            device, self.file, self.sizes, self.tokenizer, self.template, self.context, self.residency,
            prefix_reuse=prefix_reuse, words=self.words,
        )  # fmt: skip

    @staticmethod
    def nbytes_of(file: GGUFFile, sizes: Hyperparameters, context: int) -> int:
        """What `build` takes, to be asked of the memory budget first."""
        return nbytes(file, sizes, context)

    def build(self) -> Any:
        program = Program(self._nbytes)
        build(self.file, self.sizes, self.context, program)
        return program

    def spare_page(self) -> tuple[int, Callable[[], None]]:
        """A page as tables have it, and how it is given back. Raises MemoryBudgetExceeded."""
        size, what = self.sizes.kv.page_bytes, "a page of keys and values"
        page = Page(size, self.residency.budget.reserve(size, what, Kind.PAGES))
        return page.address, page.drop

    def new_sequence(self, *, reuse: bool = True) -> Sequence:
        """`reuse`: its full pages may serve others, and those of others may serve it."""
        return Sequence(self, self.prefixes if reuse else None)

    @contextmanager
    def lend(self, answer: list[str], *, reuse: bool = True) -> Iterator[Sequence]:
        """A sequence for one job, given back when it ends. (A `Turn` of a conversation lends the
        conversation's.)
        """
        sequence = self.new_sequence(reuse=reuse)
        try:
            with sequence.used_by(current_job()):
                yield sequence
        finally:
            sequence.release()

    def check(self, prompt: int, tokens: int) -> None:
        """Raise MemoryBudgetExceeded if a prompt of so many tokens, or a sequence, could never be held."""
        reading = self._sequence_bytes(prompt) + self.workspaces.bytes_for(min(prompt, CHUNK))
        writing = self._sequence_bytes(tokens) + self.workspace_bytes(1, 1)
        what = f"{self.name} with a sequence of {tokens} tokens"
        self.residency.check(self._nbytes + max(reading, writing), what)

    def _sequence_bytes(self, tokens: int) -> int:
        return -(-tokens // PAGE_POSITIONS) * self.sizes.kv.page_bytes

    def fits(self, tokens: int) -> bool:
        """Whether there is memory that nobody uses, to load it if need be and for a sequence of so many
        tokens.
        """
        free = self.residency.budget.free
        step = self.workspaces.lacking(min(tokens, CHUNK))
        return free is None or self.missing_bytes + self._sequence_bytes(tokens) + step <= free

    def abandon(self, lost: DeviceLost) -> None:
        super().abandon(lost)
        self.workspaces.trim(0)
        if self.prefixes is not None:
            self.prefixes.clear()
        self.residency.changed()

    def give_back(self) -> None:
        super().give_back()
        if self.prefixes is not None:
            self.prefixes.clear()

    def idle(self) -> None:
        self.workspaces.trim(0)

    def spare_bytes(self, holder: Holder | None) -> int:
        return self.workspaces.spare_bytes(self._rows_for(holder))

    def drop_spare(self, holder: Holder | None) -> None:
        self.workspaces.trim(self._rows_for(holder))

    def _rows_for(self, holder: Holder | None) -> int:
        return holder.rows if isinstance(holder, Sequence) and holder.model is self else 0
