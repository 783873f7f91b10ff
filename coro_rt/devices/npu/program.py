"""A model's step for an NPU: the calls that describe it, kept in order, and cut into layers.

Nothing is computed here and no graph exists yet: a graph is made for a group of layers and a shape, when one
is wanted (`graph.py`), from the calls of those layers. What lies before the first layer (looking up
embeddings) and after the last one's keys and values (the head) is not the NPU's: reading a prompt needs
neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coro_rt.kernels.formats import Bytes, Floats, Format
from coro_rt.kernels.gated import Activation
from coro_rt.kernels.kv import KVShape
from coro_rt.kernels.program import Buffer

MASKED = np.float32(-65504)  # the smallest float16: no infinities, which some NPUs do not take


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is made for: `tokens` of a chunk, behind `past` positions. Both are filled up with
    padding.
    """

    tokens: int
    past: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens behind {self.past}"


@dataclass(slots=True)
class NpuMatrix:
    """A matrix as it stands in the file, in parts on top of each other (raw bytes, shape)."""

    format: Format
    rows: int
    columns: int
    parts: tuple[tuple[Bytes, tuple[int, int]], ...]

    def dequantize(self) -> Floats:
        """float32 [rows, columns]."""
        return np.concatenate([self.format.dequantize(raw, shape) for raw, shape in self.parts])

    def raw(self) -> Bytes:
        """The parts' bytes, rows in order."""
        return np.concatenate([np.ascontiguousarray(raw).reshape(-1).view(np.uint8) for raw, _ in self.parts])


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation."""

    operation: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of the embedding, of a copy that outlives the file."""

    matrix: NpuMatrix
    scale: float

    def __call__(self, tokens: NDArray[np.int32]) -> Floats:
        """float32 [T, width]."""
        form, raw = self.matrix.format, self.matrix.parts[0][0].reshape(self.matrix.rows, -1)
        shape = (len(tokens), self.matrix.columns)
        return form.dequantize(np.ascontiguousarray(raw[tokens]).reshape(-1), shape) * np.float32(self.scale)


class NpuProgram:
    """`kernels.operations.Operations`, recorded. Read-only once finished."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.embedding: Embedding | None = None
        self.layers: list[range] = []  # of `calls`
        self.turns: list[Floats] = []  # tables of sines and cosines that layers use, each once
        self.windows: list[int] = []  # each once; 0: everything

    def pack(self, format: Format, *parts: tuple[Bytes, tuple[int, int]]) -> NpuMatrix:
        return NpuMatrix(format, sum(shape[0] for _, shape in parts), parts[0][1][1], parts)

    def finish(self) -> NpuProgram:
        keys = [at for at, call in enumerate(self.calls) if call.operation == "rope_kv"]
        cuts = [at for at, call in enumerate(self.calls) if _begins_on_the_stream(call)]
        starts = [max((cut for cut in cuts if cut < at), default=0) for at in keys]
        ends = [*starts[1:], keys[-1] + 1] if keys else []
        self.layers = [range(start, end) for start, end in zip(starts, ends, strict=True)]
        return self

    def forget_weights(self) -> None:
        """Let go of the file. What is left can feed graphs, but make none."""
        if self.embedding is not None:
            old = self.embedding.matrix
            raw = old.raw(), (old.rows, old.columns)
            kept = NpuMatrix(old.format, old.rows, old.columns, (raw,))
            self.embedding = Embedding(kept, self.embedding.scale)
        self.calls = [call for call in self.calls if call.operation in ("rope_kv", "attend")]

    def inputs(self, shape: Shape, start: int, count: int) -> dict[str, Floats]:
        """What graphs of a shape need besides hidden rows and earlier keys and values, for `count` tokens
        from position `start` on: sines and cosines, and masks.
        """
        fed: dict[str, Floats] = {}
        for number, table in enumerate(self.turns):
            rows = np.zeros((shape.tokens, table.shape[1], 2), np.float32)
            rows[:count] = table[start : start + count]
            fed[f"cos{number}"], fed[f"sin{number}"] = rows[..., 0].copy(), rows[..., 1].copy()
        for window in self.windows:
            fed[f"mask{window}"] = mask(shape, start, window)
        return fed

    # The operations; see `kernels.program.Program`.

    def embed(self, weight: NpuMatrix, *, out: Buffer, scale: float = 1.0) -> None:
        self.embedding = Embedding(weight, scale)

    def norm(
        self, weight: Floats, eps: float, columns: int, *, source: Buffer, out: Buffer, qout: Buffer | None,
        add: bool = False, tail: bool = False,
    ) -> None:  # fmt: skip
        self._record(
            "norm", weight=weight, eps=eps, columns=columns, source=source, out=out, qout=qout, add=add
        )

    def matmul(
        self, weight: NpuMatrix, *, source: Buffer, out: Buffer, offset: int = 0, add: bool = False,
        tail: bool = False,
    ) -> None:  # fmt: skip
        self._record("matmul", weight=weight, source=source, out=out, offset=offset, add=add)

    def bias(self, values: Floats, *, out: Buffer, tail: bool = False) -> None:
        self._record("bias", values=values, out=out)

    def rope_kv(
        self, kv: KVShape, layer: int, heads: int, turns: Floats, *, halves: bool, qkv: Buffer,
        norms: tuple[Floats, Floats] | None = None, eps: float = 0.0,
    ) -> None:  # fmt: skip
        known = [number for number, table in enumerate(self.turns) if table is turns]
        if not known:
            self.turns.append(turns)
        self._record(
            "rope_kv", kv=kv, layer=layer, heads=heads, pairs=turns.shape[1], halves=halves, qkv=qkv,
            table=known[0] if known else len(self.turns) - 1, norms=norms, eps=eps,
        )  # fmt: skip

    def attend(
        self, kv: KVShape, layer: int, heads: int, *, qkv: Buffer, out: Buffer, qout: Buffer | None,
        window: int = 0, scale: float | None = None, whole: bool = False,
    ) -> None:  # fmt: skip
        assert not whole, "encoders do not run on an NPU"
        if window not in self.windows:
            self.windows.append(window)
        scale = kv.head_size**-0.5 if scale is None else scale
        self._record(
            "attend", kv=kv, layer=layer, heads=heads, out=out, qout=qout, window=window, scale=scale
        )

    def gate(
        self, columns: int, *, gate_up: Buffer, out: Buffer, qout: Buffer | None,
        activation: Activation = Activation.SILU,
    ) -> None:  # fmt: skip
        self._record("gate", columns=columns, gate_up=gate_up, out=out, qout=qout, activation=activation)

    def summary(self, vocabulary: int, *, logits: Buffer, out: Buffer) -> None:
        """The head is not the NPU's."""

    def _record(self, operation: str, **args: Any) -> None:
        self.calls.append(Call(operation, args))


def _begins_on_the_stream(call: Call) -> bool:
    """Nothing but the residual stream is needed from before this call."""
    return call.operation == "norm" and call.args["source"] is Buffer.HIDDEN and not call.args["add"]


def mask(shape: Shape, start: int, window: int) -> Floats:
    """float32 [tokens, past + tokens]: what is added to the scores of a chunk that begins at `start`."""
    queries = start + np.arange(shape.tokens)[:, None]
    places = np.arange(shape.past + shape.tokens)[None, :]
    positions = np.where(places < shape.past, places, places - shape.past + start)
    seen = (positions <= queries) & ((places < start) | (places >= shape.past))
    if window:
        seen &= positions > queries - window
    return np.where(seen, np.float32(0), MASKED).astype(np.float32)
