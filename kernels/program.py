"""Programs: a model's step as a table of operations over buffers, built once per model.

What an operation reads and writes, and how it is cut into units of work, stands in `units`; the buffers of a
step under way are a `workspace`.

Operations marked `tail` work on the last rows only, those whose logits are wanted.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import attention, embed, matmul
from .attention import EVERYTHING
from .formats import BLOCK, Bytes, Floats, Format
from .gated import Activation
from .kv import KVShape
from .memory import Arena
from .packed import PackedMatrix
from .simd import LANES


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
