"""Embedding texts: a job that runs an encoder over some texts at a time.

Texts lie behind each other in a step, without padding, and a row sees its own text alone, so an embedding
does not depend on its company. A step is a launch like that of a generation: it may be suspended after any
chunk of work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.devices.base import Device
from coro_rt.errors import ContextOverflow
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.kv import PAGE_POSITIONS, new_page
from coro_rt.kernels.operations import EncoderSteps
from coro_rt.kernels.program import Program
from coro_rt.memory.budget import Kind
from coro_rt.memory.residency import Residency
from coro_rt.traps import current_job

from . import bert
from .gguf_file import GGUFFile
from .loaded import Loaded, Words
from .step import step
from .wordpiece import WordPiece

__all__ = ["EncoderModel", "checked_texts", "embed"]

STEP_TOKENS = 512
STEP_TEXTS = 32
"""A step holds texts up to so many tokens and texts, and one text at least: enough to reuse each weight."""


class EncoderModel(Loaded):
    """What the jobs of one encoder share. Its program runs on the CPU; other devices have subclasses."""

    def __init__(
        self,
        device: Device,
        file: GGUFFile,
        sizes: bert.Hyperparameters,
        tokenizer: WordPiece,
        context: int,
        residency: Residency,
    ) -> None:
        size = bert.nbytes(file, sizes)
        super().__init__(device, file, size, sizes.widths, Words(sizes.vocabulary), context, residency)
        self.sizes, self.tokenizer = sizes, tokenizer

    def build(self) -> Any:
        program = Program()
        bert.build(self.file, self.sizes, program)
        return program

    def lose(self) -> None:
        super().lose()
        self.file.close()

    @asynccontextmanager
    async def buffers(self, tokens: int, texts: int) -> AsyncIterator[tuple[EncoderSteps, NDArray[np.int64]]]:
        """A workspace for steps of so many tokens and texts, and enough pages, as tables have them."""
        pages = texts + tokens // PAGE_POSITIONS
        nbytes = self.workspace_bytes(tokens, texts) + pages * self.sizes.kv.page_bytes
        what = f"a step of {tokens} tokens"
        self.residency.check(self._nbytes + nbytes, f"{self.name} with {what}")
        room = await self.residency.room(what, lambda: nbytes, Kind.WORKSPACES)
        with room, self._buffers(tokens, texts, pages) as made:
            yield made

    @contextmanager
    def _buffers(
        self, tokens: int, texts: int, pages: int
    ) -> Iterator[tuple[EncoderSteps, NDArray[np.int64]]]:
        kept = [new_page(self.sizes.kv) for _ in range(pages)]
        yield self.new_workspace(tokens, texts), np.array([page.ctypes.data for page in kept], np.int64)


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Raises TypeError, naming the first that is no text, and ValueError for one that is not Unicode."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is a sequence of str; for one text: embed([text])")
    listed = list(texts)
    for at, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"text {at} is {str(text)[:40]!r}, which is {type(text).__name__}, not str")
        text.encode()
    return listed


async def embed(model: EncoderModel, texts: list[str], *, truncate: bool) -> Floats:
    """float32 [texts, width]. Raises ContextOverflow for a text that is too long, unless `truncate`;
    DeviceLost.
    """
    result = np.empty((len(texts), model.sizes.hidden), np.float32)
    done, entry = 0, current_job().entry
    async with model.in_use(), AsyncExitStack() as held:
        room = 0, 0
        for batch in _batches(model, texts, truncate=truncate):
            lengths = [len(ids) for ids in batch]
            tokens = sum(lengths)
            if tokens > room[0] or len(batch) > room[1]:
                # what all later steps fit into, if there are any
                more = done + len(batch) < len(texts)
                room = (max(tokens, STEP_TOKENS), STEP_TEXTS) if more else (tokens, len(batch))
                await held.aclose()
                workspace, pages = await held.enter_async_context(model.buffers(*room))
            ends = np.cumsum([-(-length // PAGE_POSITIONS) for length in lengths])
            tables = np.split(pages[: ends[-1]], ends[:-1])
            # a guess: the texts to come are as long as these
            expected = tokens * (len(texts) - done) // len(batch)
            current_job().predict(model.pace.left_s(expected, 0))
            ids = np.concatenate([np.array(ids, np.int32) for ids in batch])
            model.check_there()
            workspace.begin_texts(ids, lengths, tables, pooled=model.sizes.pooled)
            before = entry.served_s
            await step(model.program, workspace)
            model.pace.learn(tokens, entry.served_s - before)
            result[done : done + len(batch)] = workspace.pooled
            done += len(batch)
    return result


def _batches(model: EncoderModel, texts: list[str], *, truncate: bool) -> Iterator[list[list[int]]]:
    """Token ids of one step's texts at a time, so that no Python step is long."""
    batch: list[list[int]] = []
    tokens = 0
    for at, text in enumerate(texts):
        ids = model.tokenizer.encode(text)
        if len(ids) > model.context:
            if not truncate:
                raise ContextOverflow(
                    f"text {at} has {len(ids)} tokens, but the context of {model.name} is {model.context}: "
                    "shorten it, or use truncate=True to leave out its end"
                )
            ids = ids[: model.context - 1] + ids[-1:]
        if batch and (tokens + len(ids) > STEP_TOKENS or len(batch) == STEP_TEXTS):
            yield batch
            batch, tokens = [], 0
        batch.append(ids)
        tokens += len(ids)
    if batch:
        yield batch
