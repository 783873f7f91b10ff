"""Workspaces: the buffers of a step under way, and the point where it goes on. A suspended step keeps its
half-done state there.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from . import activations, attention
from .attention import SPLIT
from .formats import Bytes, Floats
from .memory import align_up, aligned_zeros
from .program import Buffer

LONGEST_BURST = 64
"""Tokens that a burst (see `units`) makes for each row, at most."""

FEW = 4
"""Rows of a step whose long contexts are shared out by split: with more rows there is enough to share."""


class State(IntEnum):
    """Words of a workspace's state, int64 each."""

    OP = 0  # where to go on
    UNIT = 1
    ROWS = 2
    TAIL = 3
    LONGEST = 4  # of the step's texts, in positions
    BURST = 5  # how many tokens to make for each row; 0: no burst
    MADE = 6  # how many there are
    ENDS = 7  # address and number of the tokens that end a burst
    END_COUNT = 8
    DONE_NS = 9  # when the step was done, by the monotonic clock
    COUNT = 16


@dataclass(frozen=True, slots=True)
class Widths:
    """What a workspace's rows must hold: float32 values per buffer, and the longest context."""

    hidden: int
    qkv: int
    attended: int
    gated: int
    vocabulary: int
    context: int
    heads: int = 1  # of queries
    pooled: int = 0

    def row_bytes(self) -> dict[Buffer, int]:
        pad = 16  # matrices write whole groups of 16 rows
        size, splits = self.attended // self.heads, -(-self.context // SPLIT)
        return {
            Buffer.TOKENS: 4, Buffer.POSITIONS: 4, Buffer.PAGES: 8,
            Buffer.HIDDEN: align_up((self.hidden + pad) * 4), Buffer.NORMED: align_up((self.hidden + pad) *
            4), Buffer.QNORMED: activations.row_bytes(self.hidden), Buffer.QKV: align_up((self.qkv + pad) *
            4), Buffer.ATTENDED: align_up((self.attended + pad) * 4), Buffer.QATTENDED:
            activations.row_bytes(self.attended), Buffer.GATE_UP: align_up((2 * self.gated + pad) * 4),
            Buffer.GATED: align_up((self.gated + pad) * 4), Buffer.QGATED: activations.row_bytes(self.gated),
            Buffer.LOGITS: align_up((self.vocabulary + pad) * 4), Buffer.SUMMARY: 16, Buffer.SCRATCH:
            attention.scratch_bytes(self.heads, size), Buffer.LENGTHS: 4, Buffer.SPANS: 8,
            Buffer.POOLED: align_up(self.pooled * 4),
            Buffer.PARTS: self.heads * splits * int(attention.part_bytes(size)),
            Buffer.MADE: LONGEST_BURST * 8,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextRows:
    """The rows of a step of whole texts: each one's position, table of pages and text's length; and of each
    text the first row and how many are pooled.
    """

    positions: NDArray[np.int32]
    tables: list[NDArray[np.int64]]
    lengths: NDArray[np.int32]
    spans: NDArray[np.int32]

    @classmethod
    def of(
        cls, tokens: NDArray[np.int32], lengths: list[int], pages: list[NDArray[np.int64]], pooled: int | None
    ) -> "TextRows":
        """See `Workspace.begin_texts`."""
        assert sum(lengths) == len(tokens), (lengths, len(tokens))
        counts = np.array(lengths, np.int32)
        return cls(
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            [table for table, length in zip(pages, lengths, strict=True) for _ in range(length)],
            np.repeat(counts, counts),
            np.stack([np.cumsum(counts, dtype=np.int32) - counts, np.minimum(counts, pooled or counts)], 1),
        )


_PER_TAIL = (Buffer.LOGITS, Buffer.SUMMARY, Buffer.SPANS, Buffer.POOLED, Buffer.MADE)


def _count(buffer: Buffer, rows: int, tail: int, threads: int) -> int:
    """How many rows of a buffer a workspace has."""
    if buffer is Buffer.SCRATCH:
        return threads
    if buffer is Buffer.PARTS:
        return min(rows, FEW)
    return tail if buffer in _PER_TAIL else rows


class Workspace:
    """The buffers of one step of up to `rows` tokens, `tail` of them with logits, and where the step goes on.

    One step at a time: `begin`, then run it (in pieces) with `Gang.run`, then read `logits` and `summaries`.
    """

    def __init__(self, widths: Widths, *, rows: int, tail: int, threads: int) -> None:
        self.rows, self.tail = rows, tail
        self.state = np.zeros(State.COUNT, np.int64)
        self.table = np.zeros((len(Buffer), 2), np.int64)  # address, bytes per row
        self._arrays: dict[Buffer, Bytes] = {}
        self._row_pages: list[NDArray[np.int64]] = []
        for buffer, row_bytes in widths.row_bytes().items():
            array = aligned_zeros(row_bytes * max(_count(buffer, rows, tail, threads), 1))
            self._arrays[buffer] = array
            self.table[buffer] = array.ctypes.data, row_bytes
        self._vocabulary = widths.vocabulary
        self._pooled = widths.pooled

    @staticmethod
    def nbytes_of(widths: Widths, *, rows: int, tail: int, threads: int) -> int:
        """Bytes that such a workspace will take."""
        return sum(
            row_bytes * _count(buffer, rows, tail, threads)
            for buffer, row_bytes in widths.row_bytes().items()
        )

    def begin(
        self,
        tokens: NDArray[np.int32] | list[int],
        positions: NDArray[np.int32] | list[int],
        pages: list[NDArray[np.int64]],
        *,
        tail: int,
        burst: int = 1,
        ends: NDArray[np.int32] | None = None,
    ) -> None:
        """Set up a step: token ids, their positions, each token's table of pages, logits for the last `tail`
        tokens.

        `burst`: how many steps may follow each other, if all rows have logits; there must be pages for them.
        A row's best token is its next; one of `ends`, or logits that are no numbers, ends the burst for all.
        """
        count = len(tokens)
        assert 1 <= burst <= LONGEST_BURST, burst
        assert burst == 1 or tail == count, (burst, tail, count)
        assert 0 < count <= self.rows, (count, self.rows)
        assert 0 <= tail <= min(count, self.tail), (tail, count, self.tail)
        assert len(positions) == len(pages) == count
        self.array(Buffer.TOKENS).view(np.int32)[:count] = tokens
        self.array(Buffer.POSITIONS).view(np.int32)[:count] = positions
        self.array(Buffer.PAGES).view(np.int64)[:count] = [table.ctypes.data for table in pages]
        self._row_pages = pages  # keeps the tables alive
        self.state[:] = 0
        self.state[State.ROWS], self.state[State.TAIL] = count, tail
        if burst > 1:
            self.state[State.BURST] = burst
            if ends is not None and len(ends):
                assert ends.dtype == np.int32
                self.state[State.ENDS], self.state[State.END_COUNT] = ends.ctypes.data, len(ends)
        self._ends = ends  # kept alive

    def redirect(self, rows: list[int], table: NDArray[np.int64]) -> None:
        """Between two pieces of a step: these rows read and write other pages from now on. They go on to be
        computed, and mean nothing any more.
        """
        self.array(Buffer.PAGES).view(np.int64)[rows] = table.ctypes.data
        for row in rows:
            self._row_pages[row] = table

    def begin_texts(
        self,
        tokens: NDArray[np.int32],
        lengths: list[int],
        pages: list[NDArray[np.int64]],
        *,
        pooled: int | None = None,
    ) -> None:
        """Set up a step of an encoder: whole texts, one behind the other, `lengths` tokens each, and each
        one's table of pages. The first `pooled` rows of each are pooled, by default all.
        """
        rows = TextRows.of(tokens, lengths, pages, pooled)
        self.begin(tokens, rows.positions, rows.tables, tail=len(lengths))
        self.array(Buffer.LENGTHS).view(np.int32)[: len(tokens)] = rows.lengths
        self.array(Buffer.SPANS).view(np.int32).reshape(-1, 2)[: len(lengths)] = rows.spans
        self.state[State.LONGEST] = max(lengths)

    def end_burst(self) -> None:
        """Between two pieces of a burst: it is over with the step under way."""
        self.state[State.BURST] = min(self.state[State.BURST], self.state[State.MADE] + 1)

    @property
    def burst_steps(self) -> int:
        """How many steps of a burst are done; 0 if this is none."""
        return int(self.state[State.MADE])

    def made(self, row: int) -> list[tuple[int, float]]:
        """What a burst made for a row: tokens with their log-probabilities. All but the last have been read,
        too.
        """
        words = self.array(Buffer.MADE).view(np.int32).reshape(-1, LONGEST_BURST, 2)
        words = words[row, : self.burst_steps]
        return list(zip(words[:, 0].tolist(), words[:, 1].view(np.float32).tolist(), strict=True))

    @property
    def done_ns(self) -> int:
        """When the step was done, as `time.monotonic_ns()`."""
        return int(self.state[State.DONE_NS])

    @property
    def pooled(self) -> Floats:
        """float32 [texts of this step, columns]: a view, overwritten by the next step."""
        return self.floats(Buffer.POOLED)[: int(self.state[State.TAIL]), : self._pooled]

    def array(self, buffer: Buffer) -> Bytes:
        return self._arrays[buffer]

    def floats(self, buffer: Buffer) -> Floats:
        """A float32 view [rows, columns with padding]."""
        return self._arrays[buffer].view(np.float32).reshape(-1, int(self.table[buffer, 1]) // 4)

    @property
    def logits(self) -> Floats:
        """float32 [tail rows of this step, vocabulary]: a view, overwritten by the next step."""
        return self.floats(Buffer.LOGITS)[: int(self.state[State.TAIL]), : self._vocabulary]

    @property
    def summaries(self) -> tuple[NDArray[np.int64], Floats]:
        """(best token, log-sum-exp) of each tail row."""
        count = int(self.state[State.TAIL])
        best = self.array(Buffer.SUMMARY).view(np.int64).reshape(-1, 2)[:count, 0]
        return best, self.array(Buffer.SUMMARY).view(np.float32).reshape(-1, 4)[:count, 2]

    def release(self) -> None:
        """Its memory goes with it."""

    def logprob(self, row: int, token: int) -> float:
        """The natural logarithm of a token's probability after tail row `row`."""
        return float(self.logits[row, token] - self.summaries[1][row])
