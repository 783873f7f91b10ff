"""The buffers of a step under way on the device, and where it goes on: what `kernels.workspace` has for the
CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.kernels.formats import BLOCK, Floats
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape
from coro_rt.kernels.program import Buffer
from coro_rt.kernels.workspace import TextRows, Widths

from .device import GpuDevice

_PER_TAIL = (Buffer.LOGITS, Buffer.SUMMARY, Buffer.POOLED)

SPLIT = 256
"""Positions that a workgroup attends to where there are too few rows to share out: as `parts.wgsl` has it."""

FEW = 8
"""Rows of a step whose long contexts are shared out by split."""


def _count(buffer: Buffer, rows: int, tail: int) -> int:
    """How many rows of a buffer a workspace has."""
    if buffer is Buffer.PARTS:
        return min(rows, FEW)
    return max(tail, 1) if buffer in _PER_TAIL else rows


def _quantized_words(columns: int) -> int:
    return columns // 4 + columns // BLOCK * 2


def row_words(widths: Widths) -> dict[Buffer, int]:
    """Words of 4 bytes from one row of each buffer to the next; whole vectors of four."""
    splits = -(-widths.context // SPLIT)
    words = {
        Buffer.HIDDEN: widths.hidden, Buffer.NORMED: widths.hidden,
        Buffer.QNORMED: _quantized_words(widths.hidden), Buffer.QKV: widths.qkv,
        Buffer.ATTENDED: widths.attended, Buffer.QATTENDED: _quantized_words(widths.attended),
        Buffer.GATE_UP: 2 * widths.gated, Buffer.GATED: widths.gated,
        Buffer.QGATED: _quantized_words(widths.gated), Buffer.LOGITS: widths.vocabulary, Buffer.SUMMARY: 4,
        Buffer.PARTS: widths.heads * splits * (widths.attended // widths.heads + 2),
        Buffer.POOLED: widths.pooled,
    }  # fmt: skip
    return {buffer: -(-count // 4) * 4 for buffer, count in words.items()}


class GpuWorkspace:
    """The buffers of one step of up to `rows` tokens, `tail` of them with logits, or `tail` texts. One step
    at a time: `begin` or `begin_texts`, `GpuDevice.run`, then read.

    `cache`: how many pages of which kind it has of its own, numbered from 0 on, for keys and values that no
    later step needs. They are of one layer, which all layers use after each other.
    """

    def __init__(
        self, device: GpuDevice, widths: Widths, *, rows: int, tail: int,
        cache: tuple[KVShape, int] | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.tail = rows, tail
        self.at = 0  # the next dispatch of the program
        self.step_rows = self.step_tail = 0
        self.splits = 0  # of positions, if each is a workgroup's own
        self._device, self._widths = device, widths
        self._words = row_words(widths)
        self._pages = -(-widths.context // PAGE_POSITIONS)
        self._buffers = {
            buffer: device.buffer(words * 4 * _count(buffer, rows, tail))
            for buffer, words in self._words.items()
        }
        self.step_buffer, self._rows = (
            device.buffer(16),
            device.buffer((rows * (4 + self._pages) + self._pages + 2 * tail) * 4),
        )
        self._cache = None if cache is None else device.buffer(cache[0].page_bytes * cache[1])
        self.cache_group = None if cache is None else device.pipelines.bind(3, self._cache)
        self._nothing = [device.buffer(16) for _ in range(3)]
        self._groups: dict[tuple[Buffer | None, ...], Any] = {}
        self.step_group = device.pipelines.bind(0, self.step_buffer, self._rows)
        self._read: dict[Buffer, Any] = {}

    @staticmethod
    def nbytes_of(widths: Widths, *, rows: int, tail: int) -> int:
        """Bytes that such a workspace will take on the device."""
        pages = -(-widths.context // PAGE_POSITIONS)
        words = sum(each * _count(buffer, rows, tail) for buffer, each in row_words(widths).items())
        return 4 * (words + rows * (4 + pages) + pages + 2 * tail)

    def begin(
        self,
        tokens: NDArray[np.int32] | list[int],
        positions: NDArray[np.int32] | list[int],
        pages: list[NDArray[np.int64]],
        *,
        tail: int,
    ) -> None:
        """Set up a step: token ids, their positions, each token's table of pages (numbers), logits for the
        last `tail` tokens.
        """
        self._begin(tokens, positions, pages, tail)

    def begin_texts(
        self,
        tokens: NDArray[np.int32],
        lengths: list[int],
        pages: list[NDArray[np.int64]],
        *,
        pooled: int | None = None,
    ) -> None:
        """Set up a step of an encoder; see `kernels.workspace.Workspace`."""
        texts = TextRows.of(tokens, lengths, pages, pooled)
        self._begin(tokens, texts.positions, texts.tables, len(lengths), texts)

    def _begin(
        self,
        tokens: NDArray[np.int32] | list[int],
        positions: NDArray[np.int32] | list[int],
        pages: list[NDArray[np.int64]],
        tail: int,
        texts: TextRows | None = None,
    ) -> None:
        count = len(tokens)
        assert 0 < count <= self.rows, (count, self.rows)
        assert 0 <= tail <= min(count, self.tail), (tail, count, self.tail)
        assert len(positions) == len(pages) == count
        rows = np.zeros((count, 4), np.uint32)
        rows[:, 0], rows[:, 1] = tokens, positions
        tables: dict[int, int] = {}
        parts: list[NDArray[np.uint32]] = []
        at = 4 * count
        for t, table in enumerate(pages):
            if id(table) not in tables:
                tables[id(table)] = at
                parts.append(table.astype(np.uint32))
                at += len(table)
            rows[t, 2] = tables[id(table)]
        if texts is not None:
            rows[:, 3] = texts.lengths
            parts.append(texts.spans.reshape(-1).astype(np.uint32))
        self._device.write(self._rows, np.concatenate([rows.reshape(-1), *parts]))
        self._row_words, self._end = rows, at
        self._device.write(self.step_buffer, np.array([count, tail, at, 0], np.uint32))
        self.at, self.step_rows, self.step_tail = 0, count, tail
        reach = int(np.max(positions)) + 1
        self.splits = -(-reach // SPLIT) if count <= FEW and reach > SPLIT else 0
        self._read.clear()

    def redirect(self, rows: list[int], table: NDArray[np.int64]) -> None:
        """Between two pieces of a step: these rows read and write other pages from now on. They go on to be
        computed, and mean nothing any more.
        """
        # behind the tables of the step, which has no room for a second one: the same table each time
        self._device.write(self._rows, table[: self._pages].astype(np.uint32), self._end * 4)
        self._row_words[rows, 2] = self._end
        self._device.write(self._rows, self._row_words)

    def group(self, x: Buffer | None, y: Buffer | None, q: Buffer | None) -> Any:
        """The bind group of what an operation reads and writes."""
        found = self._groups.get((x, y, q))
        if found is None:
            # a buffer is bound once in a dispatch at most, so each place has a nothing of its own
            buffers = [
                nothing if buffer is None else self._buffers[buffer]
                for buffer, nothing in zip((x, y, q), self._nothing, strict=True)
            ]
            found = self._groups[x, y, q] = self._device.pipelines.bind(1, *buffers)
        return found

    def put(self, buffer: Buffer, values: Floats) -> None:
        """Fill the first columns of the rows of a float32 buffer."""
        padded = np.zeros((len(values), self._words[buffer]), np.float32)
        padded[:, : values.shape[1]] = values
        self._device.write(self._buffers[buffer], padded)

    def words(self, buffer: Buffer) -> NDArray[np.uint32]:
        """[rows of this step, words]: read from the device once a step. Waits."""
        found = self._read.get(buffer)
        if found is None:
            rows = self.step_tail if buffer in _PER_TAIL else self.step_rows
            words = self._words[buffer]
            data = self._device.read(self._buffers[buffer], rows * words * 4)
            found = self._read[buffer] = data.view(np.uint32).reshape(rows, words)
        return found

    def floats(self, buffer: Buffer) -> Floats:
        """The same as float32."""
        return self.words(buffer).view(np.float32)

    @property
    def logits(self) -> Floats:
        """float32 [tail rows of this step, vocabulary]. Waits."""
        return self.floats(Buffer.LOGITS)[:, : self._widths.vocabulary]

    @property
    def summaries(self) -> tuple[NDArray[np.int64], Floats]:
        """(best token, log-sum-exp) of each tail row. Waits."""
        words = self.words(Buffer.SUMMARY)
        return words[:, 0].astype(np.int64), words[:, 1].view(np.float32)

    @property
    def pooled(self) -> Floats:
        """float32 [texts of this step, columns]. Waits."""
        return self.floats(Buffer.POOLED)[:, : self._widths.pooled]

    @property
    def outcome(self) -> Floats:
        """What is not finite if something went wrong in this step. Waits."""
        return self.pooled if self._widths.pooled else self.summaries[1]

    def release(self) -> None:
        """Give the device's memory back when nothing submitted needs it any more."""
        for buffer in (*self._buffers.values(), *self._nothing, self.step_buffer, self._rows):
            buffer.destroy()
        if self._cache is not None:
            self._cache.destroy()
        self._groups.clear()

    def logprob(self, row: int, token: int) -> float:
        """The natural logarithm of a token's probability after tail row `row`; of the best one, no logits are
        read back.
        """
        best, log_sums = self.summaries
        logit = self.words(Buffer.SUMMARY)[row, 2:3].view(np.float32)[0]
        return float((logit if token == best[row] else self.logits[row, token]) - log_sums[row])
