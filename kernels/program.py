"""Programs: a model's step as a table of operations over buffers, and the code that does a part of one
operation.

A `Program` is built once per model. A `Workspace` holds the buffers of one step under way (so that a
suspended step keeps its half-done state) and the point where it goes on. An operation is cut into *units*
that may be done in any order by any thread:

    operation   a unit is                        reads → writes
    EMBED       a token                          token ids → float32 row
    NORM        a row                            float32 row → float32 row, set or added, and int8 row
    MATMUL      16 output rows                   int8 (or float32) rows → float32 rows, set or added
    BIAS        a row                            float32 row, added to in place
    ROPE_KV     a row                            query, key, value → query turned, key and value in the cache
    ATTEND      some rows and a KV head          queries, cache → float32 heads, and int8 blocks; or, of a
                (and a split of positions)       few rows with long contexts, parts of them
    FOLD        a row and a query head           parts → float32 head, and int8 blocks
    GATE        a row                            gate | up → float32 row, and int8 row
    SUMMARY     a row of logits                  logits → best token, log-sum-exp
    LAYER_NORM  a row                            float32 row → float32 row, and int8 row
    GELU        a row                            float32 row → float32 row, and int8 row
    POOL        a text                           its rows → one row of length 1

A step in which every row has logits may be followed by others without leaving this code, a *burst*: each
row's best token is what it gets next.

The last three are for encoders: several texts lie in one step behind each other, and a row sees its whole
text.

Operations marked `tail` work on the last rows only, those whose logits are wanted.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import activations, attention, embed, matmul
from .attention import EVERYTHING, ROWS, SPLIT, call_attend, clear, finish, fold
from .bias import add_row
from .embed import call_fetch, scale_row
from .formats import BLOCK, Bytes, Floats, Format
from .gated import Activation, gated_row
from .gelu import gelu_row
from .jit import entry, indirect_call, native
from .kv import PAGE_POSITIONS, KVShape, head_bytes, write_position
from .layer_norm import layer_norm_row
from .logits import summarize
from .matmul import call_groups
from .memory import Arena, align_up, aligned_zeros
from .norm import norm_row
from .packed import PackedMatrix
from .pool import pool_rows
from .rope import turn_head
from .simd import LANES, inline, load_f32, load_i32, load_i64, store_f32, store_i32, store_i64


class Op(IntEnum):
    EMBED = 0
    NORM = 1
    MATMUL = 2
    ROPE_KV = 3
    ATTEND = 4
    GATE = 5
    SUMMARY = 6
    BIAS = 7
    FOLD = 8
    LAYER_NORM = 9
    GELU = 10
    POOL = 11


class Buffer(IntEnum):
    """The buffers of a workspace; each has one row per token. Q… are int8 rows (see `activations`)."""

    TOKENS = 0  # int32, one per token, as are the next two
    POSITIONS = 1
    PAGES = 2  # address of the token's sequence's table of page addresses
    HIDDEN = 3  # the residual stream
    NORMED = 4
    QNORMED = 5
    QKV = 6
    ATTENDED = 7
    QATTENDED = 8
    GATE_UP = 9
    GATED = 10
    QGATED = 11
    LOGITS = 12  # one row per tail row, as are the next
    SUMMARY = 13  # int64 best token, float32 log-sum-exp
    SCRATCH = 14  # one row per thread
    LENGTHS = 15  # int32, one per token: how many positions its text has
    SPANS = 16  # int32 first row and count, one pair per text
    POOLED = 17  # float32, one row per text
    PARTS = 18  # parts of the first rows' queries, by head and split: see `attention`
    MADE = 19  # what a burst made: int32 token and float32 log-probability, LONGEST_BURST of them


class Field(IntEnum):
    """Columns of the table of operations, int64 each."""

    OP = 0
    UNITS = 1  # units per row (ATTEND), in all (MATMUL), else 1 per row
    IN = 2  # buffers
    OUT = 3
    QOUT = 4  # -1: no int8 copy
    COLUMNS = 5
    CALL = 6  # address of the format's own code
    WEIGHT = 7  # address
    GROUP_BYTES = 8
    OUT_OFFSET = 9  # bytes into each row of OUT
    ADD = 10
    TAIL = 11  # only the rows whose logits are wanted
    SKIP = 12  # IN has all rows, OUT the tail only
    NUMBERS = 13  # address of float32 [1]: eps (NORM, ROPE_KV), scale (EMBED: of rows, ATTEND: of scores)
    HEADS = 14
    KV_HEADS = 15
    HEAD_SIZE = 16
    LAYER_OFFSET = 17  # bytes into a page
    TABLE = 18  # address of the sines and cosines
    HALF = 19  # pairs turned
    HALVES = 20  # pairs are (i, i + n/2)
    Q_NORM = 21  # addresses of the weights that queries and keys are normalised with first, or 0
    K_NORM = 22
    WINDOW = 23  # positions that a query sees, its own included
    ACTIVATION = 24
    KV_BITS = 25
    SHIFT = 26  # address of what is added to the input first
    SHIFT_STRIDE = 27  # bytes from one position's to the next; 0: the same for all
    LENGTHS = 28  # the buffer that says how many positions a row sees …
    PLUS = 29  # … less so many
    COUNT = 30


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


# numba sees plain integers
_EMBED, _NORM, _MATMUL, _ROPE_KV, _ATTEND, _GATE, _SUMMARY, _BIAS = (int(op) for op in list(Op)[:8])
_FOLD, _LAYER_NORM, _GELU, _POOL = (int(op) for op in list(Op)[8:])
_F = {f.name: int(f) * 8 for f in Field}
_OP, _UNITS, _IN, _OUT, _QOUT = (_F[n] for n in ("OP", "UNITS", "IN", "OUT", "QOUT"))
_COLUMNS, _WEIGHT, _GROUP_BYTES = (_F[n] for n in ("COLUMNS", "WEIGHT", "GROUP_BYTES"))
_CALL, _OUT_OFFSET, _ADD, _TAIL, _SKIP = (_F[n] for n in ("CALL", "OUT_OFFSET", "ADD", "TAIL", "SKIP"))
_HEADS, _KV_HEADS, _HEAD_SIZE, _LAYER_OFFSET = (
    _F[n] for n in ("HEADS", "KV_HEADS", "HEAD_SIZE", "LAYER_OFFSET")
)
_TABLE, _HALF, _HALVES, _NUMBERS = (_F[n] for n in ("TABLE", "HALF", "HALVES", "NUMBERS"))
_Q_NORM, _K_NORM, _WINDOW, _ACTIVATION = (_F[n] for n in ("Q_NORM", "K_NORM", "WINDOW", "ACTIVATION"))
_KV_BITS, page_part, part_bytes = _F["KV_BITS"], inline(head_bytes), inline(attention.part_bytes)
_LENGTHS, _PLUS = _F["LENGTHS"], _F["PLUS"]
_SHIFT, _SHIFT_STRIDE = _F["SHIFT"], _F["SHIFT_STRIDE"]
OP_BYTES = int(Field.COUNT) * 8
_TOKENS, _POSITIONS, _PAGES, _SCRATCH = (
    int(b) * 16 for b in (Buffer.TOKENS, Buffer.POSITIONS, Buffer.PAGES, Buffer.SCRATCH)
)
_SPANS, _PARTS, _LOGITS, _SUMMARIES, _MADE = (
    int(b) * 16 for b in (Buffer.SPANS, Buffer.PARTS, Buffer.LOGITS, Buffer.SUMMARY, Buffer.MADE)
)
STATE_LONGEST = int(State.LONGEST) * 8
STATE_OP, STATE_UNIT, STATE_ROWS, STATE_TAIL = (int(s) * 8 for s in list(State)[:4])
STATE_BURST, STATE_MADE, STATE_ENDS, STATE_END_COUNT, STATE_DONE_NS = (int(s) * 8 for s in list(State)[5:10])


class Program:
    """A table of operations, in order. Append with the methods, then `finish`; read-only afterwards.

    `nbytes`: what its matrices will take, for one piece of memory in which they lie as they are read.
    """

    def __init__(self, nbytes: int = 0) -> None:
        self._arena = Arena(nbytes)
        self._rows: list[NDArray[np.int64]] = []
        self._keep: list[Any] = []  # what the table's addresses point into
        self.table: NDArray[np.int64] = np.zeros((0, Field.COUNT), np.int64)

    def pack(self, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> PackedMatrix:
        """Stack matrices (raw bytes, shape) of one format on top of each other; see `PackedMatrix.pack`."""
        return PackedMatrix.pack(format, *parts, empty=self._arena.empty)

    def finish(self) -> "Program":
        self.table = np.ascontiguousarray(np.stack(self._rows))
        self.table.flags.writeable = False
        return self

    def embed(self, weight: PackedMatrix, *, out: Buffer, scale: float = 1.0) -> None:
        self._add(
            Op.EMBED, OUT=out, NUMBERS=self._number(scale),
            **self._matrix(weight, embed.address(weight.format)),
        )  # fmt: skip

    def norm(
        self,
        weight: Floats,
        eps: float,
        columns: int,
        *,
        source: Buffer,
        out: Buffer,
        qout: Buffer | None,
        add: bool = False,
        tail: bool = False,
    ) -> None:
        """RMSNorm, with `add` added to what `out` holds; with `tail`, of the last rows of `source` into the
        first rows of `out`.
        """
        assert qout is None or not add
        assert columns % BLOCK == 0, columns
        assert weight.shape == (columns,), (columns, weight.shape)
        self._add(
            Op.NORM, IN=source, OUT=out, QOUT=-1 if qout is None else qout, COLUMNS=columns,
            WEIGHT=self._address(np.ascontiguousarray(weight, np.float32)),
            NUMBERS=self._number(eps), ADD=add, TAIL=tail, SKIP=tail,
        )  # fmt: skip

    def matmul(
        self,
        weight: PackedMatrix,
        *,
        source: Buffer,
        out: Buffer,
        offset: int = 0,
        add: bool = False,
        tail: bool = False,
    ) -> None:
        """`source` are int8 rows for quantized weights, else float32 rows. `offset`: float32 columns into
        `out`.
        """
        self._add(
            Op.MATMUL,
            IN=source,
            OUT=out,
            UNITS=weight.groups,
            OUT_OFFSET=offset * 4,
            ADD=add,
            TAIL=tail,
            **self._matrix(weight, matmul.address(weight.format)),
        )

    def bias(self, values: Floats, *, out: Buffer, tail: bool = False) -> None:
        """Add `values` to the first columns of each row of `out`."""
        values = np.pad(values, (0, -len(values) % LANES))  # rows have room for whole vectors
        self._add(
            Op.BIAS, IN=out, OUT=out, QOUT=-1, COLUMNS=len(values), WEIGHT=self._address(values), TAIL=tail
        )

    def rope_kv(
        self,
        kv: KVShape,
        layer: int,
        heads: int,
        turns: Floats,
        *,
        halves: bool,
        qkv: Buffer,
        norms: tuple[Floats, Floats] | None = None,
        eps: float = 0.0,
    ) -> None:
        """Turn queries and keys, put keys and values into the cache. `norms`: weights, a head long, for an
        RMSNorm of each query and each key before that.
        """
        weights = {}
        if norms is not None:
            assert all(norm.shape == (kv.head_size,) and norm.dtype == np.float32 for norm in norms)
            weights = dict(zip(("Q_NORM", "K_NORM"), map(self._address, norms), strict=True))
        self._add(
            Op.ROPE_KV, IN=qkv, HEADS=heads, KV_HEADS=kv.heads, HEAD_SIZE=kv.head_size, KV_BITS=kv.bits,
            LAYER_OFFSET=layer * kv.layer_bytes, TABLE=self._address(turns), HALF=turns.shape[1],
            HALVES=halves, NUMBERS=self._number(eps), **weights,
        )  # fmt: skip

    def attend(
        self,
        kv: KVShape,
        layer: int,
        heads: int,
        *,
        qkv: Buffer,
        out: Buffer,
        qout: Buffer | None,
        window: int = 0,
        scale: float | None = None,
        whole: bool = False,
    ) -> None:
        """`window`: how many positions a query sees, its own included; 0 for all. `scale` of the scores:
        default 1/sqrt(head size). `whole`: a row sees its whole text (`begin_texts`), else what is before it.
        """
        scale = kv.head_size**-0.5 if scale is None else scale
        assert heads % kv.heads == 0, (heads, kv)
        assert qout is None or kv.head_size % BLOCK == 0, kv
        common = {
            "OUT": out, "QOUT": -1 if qout is None else qout, "HEADS": heads, "KV_HEADS": kv.heads,
            "HEAD_SIZE": kv.head_size, "COLUMNS": heads * kv.head_size, "WINDOW": window or EVERYTHING,
            "LENGTHS": Buffer.LENGTHS if whole else Buffer.POSITIONS, "PLUS": 0 if whole else 1,
        }  # fmt: skip
        self._add(
            Op.ATTEND, IN=qkv, CALL=attention.address(kv.bits), KV_BITS=kv.bits, NUMBERS=self._number(scale),
            LAYER_OFFSET=layer * kv.layer_bytes, **common,
        )  # fmt: skip
        self._add(Op.FOLD, IN=Buffer.PARTS, **common)

    def gate(
        self,
        columns: int,
        *,
        gate_up: Buffer,
        out: Buffer,
        qout: Buffer | None,
        activation: Activation = Activation.SILU,
    ) -> None:
        assert columns % BLOCK == 0, columns
        self._add(
            Op.GATE, IN=gate_up, OUT=out, QOUT=-1 if qout is None else qout, COLUMNS=columns,
            ACTIVATION=activation,
        )  # fmt: skip

    def summary(self, vocabulary: int, *, logits: Buffer, out: Buffer) -> None:
        self._add(Op.SUMMARY, IN=logits, OUT=out, COLUMNS=vocabulary, TAIL=True)

    def layer_norm(
        self, weight: Floats, bias: Floats, eps: float, *, out: Buffer, qout: Buffer | None, shift: Floats
    ) -> None:
        """In place, LayerNorm of `out` plus `shift`: float32 [columns], or [positions, columns] by
        position.
        """
        columns = len(weight)
        assert columns % BLOCK == 0, columns
        assert weight.shape == bias.shape == shift.shape[-1:], (weight.shape, bias.shape, shift.shape)
        self._add(
            Op.LAYER_NORM, IN=out, OUT=out, QOUT=-1 if qout is None else qout, COLUMNS=columns,
            WEIGHT=self._address(np.stack([weight, bias]).astype(np.float32)), NUMBERS=self._number(eps),
            SHIFT=self._address(shift), SHIFT_STRIDE=columns * 4 if shift.ndim == 2 else 0,
        )  # fmt: skip

    def gelu(self, shift: Floats, *, out: Buffer, qout: Buffer | None) -> None:
        """In place, GELU of `out` plus `shift`, float32 [columns]."""
        assert len(shift) % BLOCK == 0, shift.shape
        self._add(
            Op.GELU, IN=out, OUT=out, QOUT=-1 if qout is None else qout, COLUMNS=len(shift),
            SHIFT=self._address(shift),
        )  # fmt: skip

    def pool(self, columns: int, *, source: Buffer, out: Buffer) -> None:
        """The mean of each span's rows, divided by its norm."""
        assert columns % BLOCK == 0, columns
        self._add(Op.POOL, IN=source, OUT=out, COLUMNS=columns, TAIL=True)

    def _matrix(self, weight: PackedMatrix, code: int) -> dict[str, int]:
        self._keep.append(weight)
        return {
            "COLUMNS": weight.columns,
            "CALL": code,
            "WEIGHT": weight.address,
            "GROUP_BYTES": weight.group_bytes,
        }

    def _address(self, array: NDArray[Any]) -> int:
        assert array.flags.c_contiguous
        self._keep.append(array)
        return int(array.ctypes.data)

    def _number(self, value: float) -> int:
        return self._address(np.array([value], np.float32))

    def _add(self, op: Op, **fields: int) -> None:
        row = np.zeros(Field.COUNT, np.int64)
        row[Field.OP] = op
        for name, value in fields.items():
            row[Field[name]] = value
        self._rows.append(row)


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

LONGEST_BURST = 64

FEW = 4
"""Rows of a step whose long contexts are shared out by split: with more rows there is enough to share."""


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


@inline
def _reach(op, ws, rows):  # type: ignore[no-untyped-def]
    """How many positions the row sees that sees most, were there no window."""
    lengths, longest = load_i64(ws + load_i64(op + _LENGTHS) * 16), 0
    for t in range(rows):
        longest = max(longest, load_i32(lengths + t * 4))
    return longest + load_i64(op + _PLUS)


@inline
def _splits(op, ws, rows):  # type: ignore[no-untyped-def]
    """Into how many splits the positions of ATTEND are shared out; 0: a unit has them all."""
    if rows > FEW:
        return 0
    reach = _reach(op, ws, rows)
    return 0 if reach <= SPLIT else (reach + SPLIT - 1) // SPLIT


@entry
def units_of(op, ws, state):  # type: ignore[no-untyped-def]
    """How many units an operation has in this step."""
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    if rows == 0:
        return 0
    kind = load_i64(op + _OP)
    if kind == _MATMUL:
        return load_i64(op + _UNITS)
    if kind == _ATTEND:
        splits = _splits(op, ws, rows)
        return load_i64(op + _KV_HEADS) * (rows * splits if splits > 0 else (rows + ROWS - 1) // ROWS)
    if kind == _FOLD and _splits(op, ws, rows) == 0:
        return 0
    return rows


@entry
def unit_cost_ns(op, ws, state):  # type: ignore[no-untyped-def]
    """A guess of a unit's time, to cut operations into chunks of about equal time. Need not be good."""
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    kind = load_i64(op + _OP)
    if kind == _MATMUL:
        return load_i64(op + _GROUP_BYTES) // 16 + load_i64(op + _COLUMNS) * 16 * rows // 128
    if kind == _ATTEND:
        seen = min(_reach(op, ws, min(rows, FEW)), load_i64(op + _WINDOW))
        queries = load_i64(op + _HEADS) // load_i64(op + _KV_HEADS)
        if rows > FEW:
            queries *= ROWS
        elif seen > SPLIT:
            seen = SPLIT
        return 100 + seen * queries * load_i64(op + _HEAD_SIZE) // 40
    if kind == _ROPE_KV:
        return load_i64(op + _HEADS) * load_i64(op + _HEAD_SIZE)
    if kind == _POOL:
        return load_i64(state + STATE_LONGEST) * load_i64(op + _COLUMNS) // 16
    return load_i64(op + _COLUMNS)


@entry
def follow(ws, state):  # type: ignore[no-untyped-def]
    """After a step of a burst: note its tokens, and set the next one up. False if there is none."""
    made = load_i64(state + STATE_MADE)
    goes_on = made + 1 < load_i64(state + STATE_BURST)
    for t in range(load_i64(state + STATE_TAIL)):
        summary = load_i64(ws + _SUMMARIES) + t * load_i64(ws + _SUMMARIES + 8)
        token, log_sum = load_i64(summary), load_f32(summary + 8)
        logit = load_f32(load_i64(ws + _LOGITS) + t * load_i64(ws + _LOGITS + 8) + token * 4)
        at = load_i64(ws + _MADE) + t * load_i64(ws + _MADE + 8) + made * 8
        store_i32(at, token)
        store_f32(at + 4, logit - log_sum)
        if not np.isfinite(log_sum):
            goes_on = False
        for i in range(load_i64(state + STATE_END_COUNT)):
            if load_i32(load_i64(state + STATE_ENDS) + i * 4) == token:
                goes_on = False
    store_i64(state + STATE_MADE, made + 1)
    if goes_on:
        for t in range(load_i64(state + STATE_ROWS)):
            made_at = load_i64(ws + _MADE) + t * load_i64(ws + _MADE + 8) + made * 8
            store_i32(load_i64(ws + _TOKENS) + t * 4, load_i32(made_at))
            position = load_i64(ws + _POSITIONS) + t * 4
            store_i32(position, load_i32(position) + 1)
    return goes_on


@inline
def _put_head(result, size, out, qout, q_row, columns, head):  # type: ignore[no-untyped-def]
    """A head's result as float32 at address out, and as int8 blocks of the row at q_row if qout >= 0."""
    finish(result, size, out)
    if qout >= 0:
        for block in range(size // BLOCK):
            nth = head * (size // BLOCK) + block
            activations.quantize_block(out + block * BLOCK * 4, q_row, columns, nth)


def _run_units(op, ws, state, first, last, thread):  # type: ignore[no-untyped-def]
    """Do units first … last-1 of the operation at address `op`, over the workspace table at `ws`."""
    kind = load_i64(op + _OP)
    rows = load_i64(state + STATE_TAIL) if load_i64(op + _TAIL) != 0 else load_i64(state + STATE_ROWS)
    source = ws + load_i64(op + _IN) * 16
    x, x_stride = load_i64(source), load_i64(source + 8)
    target = ws + load_i64(op + _OUT) * 16
    y, y_stride = load_i64(target), load_i64(target + 8)
    qout = load_i64(op + _QOUT)
    q, q_stride = np.int64(0), np.int64(0)
    if qout >= 0:
        q, q_stride = load_i64(ws + qout * 16), load_i64(ws + qout * 16 + 8)
    columns = load_i64(op + _COLUMNS)
    w, group_bytes = load_i64(op + _WEIGHT), load_i64(op + _GROUP_BYTES)

    if kind == _MATMUL:
        y += load_i64(op + _OUT_OFFSET)
        add = load_i64(op + _ADD)
        code = load_i64(op + _CALL)
        call_groups(code, w, group_bytes, columns, x, x_stride, y, y_stride, rows, add, first, last)
    elif kind == _EMBED:
        for t in range(first, last):
            token = load_i32(load_i64(ws + _TOKENS) + t * 4)
            call_fetch(load_i64(op + _CALL), w, group_bytes, columns, token, y + t * y_stride)
            scale_row(y + t * y_stride, columns, load_f32(load_i64(op + _NUMBERS)))
    elif kind == _NORM:
        skip = load_i64(state + STATE_ROWS) - rows if load_i64(op + _SKIP) != 0 else 0
        for t in range(first, last):
            eps = load_f32(load_i64(op + _NUMBERS))
            norm_row(x + (t + skip) * x_stride, w, y + t * y_stride, columns, eps, load_i64(op + _ADD))
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _BIAS:
        for t in range(first, last):
            add_row(y + t * y_stride, w, columns)
    elif kind == _GATE:
        for t in range(first, last):
            up = x + t * x_stride + columns * 4
            gated_row(x + t * x_stride, up, y + t * y_stride, columns, load_i64(op + _ACTIVATION))
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _ROPE_KV:
        heads, kv_heads, size = load_i64(op + _HEADS), load_i64(op + _KV_HEADS), load_i64(op + _HEAD_SIZE)
        bits, half = load_i64(op + _KV_BITS), load_i64(op + _HALF)
        halves = load_i64(op + _HALVES) != 0
        q_norm, k_norm = load_i64(op + _Q_NORM), load_i64(op + _K_NORM)
        eps = load_f32(load_i64(op + _NUMBERS))
        for t in range(first, last):
            position = load_i32(load_i64(ws + _POSITIONS) + t * 4)
            turns = load_i64(op + _TABLE) + position * half * 8
            row = x + t * x_stride
            for head in range(heads + kv_heads):
                at = row + head * size * 4
                weight = q_norm if head < heads else k_norm
                if weight != 0:
                    norm_row(at, weight, at, size, eps, 0)
                turn_head(at, turns, half, halves)
            pages = load_i64(load_i64(ws + _PAGES) + t * 8)
            page = load_i64(pages + (position // PAGE_POSITIONS) * 8) + load_i64(op + _LAYER_OFFSET)
            for head in range(kv_heads):
                key = row + (heads + head) * size * 4
                value = key + kv_heads * size * 4
                at = page + head * page_part(size, bits)
                write_position(at, position % PAGE_POSITIONS, size, bits, key, value)
    elif kind in (_ATTEND, _FOLD):
        heads, kv_heads, size = load_i64(op + _HEADS), load_i64(op + _KV_HEADS), load_i64(op + _HEAD_SIZE)
        group, part = heads // kv_heads, part_bytes(size)
        scratch = load_i64(ws + _SCRATCH) + thread * load_i64(ws + _SCRATCH + 8)
        plus, window = load_i64(op + _PLUS), load_i64(op + _WINDOW)
        lengths = load_i64(ws + load_i64(op + _LENGTHS) * 16)
        splits = _splits(op, ws, rows)
        parts, parts_stride = load_i64(ws + _PARTS), load_i64(ws + _PARTS + 8)
        if kind == _FOLD:
            for t in range(first, last):
                for head in range(heads):
                    clear(scratch, size)
                    for split in range(splits):
                        fold(scratch, parts + t * parts_stride + (split * heads + head) * part, size)
                    out = y + t * y_stride + head * size * 4
                    _put_head(scratch, size, out, qout, q + t * q_stride, columns, head)
            return
        code, scale = load_i64(op + _CALL), load_i64(op + _NUMBERS)
        page_at, bits = load_i64(op + _LAYER_OFFSET), load_i64(op + _KV_BITS)
        all_pages, rest = load_i64(ws + _PAGES), scratch + ROWS * group * part
        for unit in range(first, last):
            if splits > 0:
                split, head, t = unit % splits, unit // splits % kv_heads, unit // splits // kv_heads
                offset = page_at + head * page_part(size, bits)
                results = parts + t * parts_stride + (split * heads + head * group) * part
                call_attend(
                    code, scale, load_i64(all_pages + t * 8), offset, size, group,
                    x + t * x_stride + head * group * size * 4, x_stride, 1, lengths + t * 4, plus, window,
                    split, split + 1, rest, results,
                )  # fmt: skip
                continue
            head, t = unit % kv_heads, unit // kv_heads * ROWS
            end, offset = min(t + ROWS, rows), page_at + head * page_part(size, bits)
            while t < end:  # neighbours of one sequence go together
                pages, some = load_i64(all_pages + t * 8), 1
                while t + some < end and load_i64(all_pages + (t + some) * 8) == pages:
                    some += 1
                least, reach = EVERYTHING, 0
                for row in range(t, t + some):
                    length = load_i32(lengths + row * 4) + plus
                    least, reach = min(least, max(length - window, 0)), max(reach, length)
                call_attend(
                    code, scale, pages, offset, size, group, x + t * x_stride + head * group * size * 4,
                    x_stride, some, lengths + t * 4, plus, window, least // SPLIT,
                    (reach + SPLIT - 1) // SPLIT, rest, scratch,
                )  # fmt: skip
                for k in range(some * group):
                    row, nth = t + k // group, head * group + k % group
                    out = y + row * y_stride + nth * size * 4
                    _put_head(scratch + k * part, size, out, qout, q + row * q_stride, columns, nth)
                t += some
    elif kind == _LAYER_NORM:
        shift, shift_stride = load_i64(op + _SHIFT), load_i64(op + _SHIFT_STRIDE)
        eps = load_f32(load_i64(op + _NUMBERS))
        for t in range(first, last):
            added = shift + load_i32(load_i64(ws + _POSITIONS) + t * 4) * shift_stride
            layer_norm_row(x + t * x_stride, added, w, y + t * y_stride, columns, eps)
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _GELU:
        for t in range(first, last):
            gelu_row(x + t * x_stride, load_i64(op + _SHIFT), y + t * y_stride, columns)
            if qout >= 0:
                activations.quantize_row(y + t * y_stride, q + t * q_stride, columns)
    elif kind == _POOL:
        for t in range(first, last):
            span = load_i64(ws + _SPANS) + t * 8
            rows_at = x + load_i32(span) * x_stride
            pool_rows(rows_at, x_stride, load_i32(span + 4), y + t * y_stride, columns)
    else:
        for t in range(first, last):
            best, total = summarize(x + t * x_stride, columns)
            store_i64(y + t * y_stride, best)
            store_f32(y + t * y_stride + 8, total)


call_units = indirect_call(6)
"""call_units(address, op, ws, state, first, last, thread): see `_run_units`."""


@cache
def units_address() -> int:
    """Where the code that does units is. By address, so that it is compiled once and not again in each
    caller.
    """
    return native(6)(_run_units)
