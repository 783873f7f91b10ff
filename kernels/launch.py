"""Kernels on arrays: check dtype and shape, put the operands into a workspace, run the operation, take the
result.

The same code that runs a model, one operation at a time: for tests, benchmarks and whoever needs one product.
The compiled code addresses memory without checks, so every check is here: TypeError for another dtype,
ValueError for shapes. Each function takes `on`, a `Runner`: what it runs on (default: the calling thread).
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import activations
from .formats import BLOCK, Bytes, Floats
from .gang import Gang
from .gated import Activation
from .jit import entry
from .kv import PAGE_POSITIONS, KVShape, new_page
from .operations import EncoderOperations, Operations, Steps
from .packed import PackedMatrix
from .program import Buffer, Program
from .workspace import Widths, Workspace


class Arrays(Steps, Protocol):
    """A workspace that is filled and read as arrays."""

    def floats(self, buffer: Buffer) -> Floats: ...


class Runner(Protocol):
    """What single operations run on: threads of the CPU (`OnGang`), or another device."""

    def matrix(self, w: PackedMatrix) -> Any:
        """The matrix as its programs take it."""

    def program(self, widths: Widths) -> Any:
        """An empty program."""

    def workspace(self, widths: Widths, rows: int) -> Arrays:
        """Buffers for a step; what is written into `floats` is there when it runs."""

    def pages(self, program: Any, kv: KVShape, positions: int) -> NDArray[np.int64]:
        """A table of new pages for so many positions."""

    def quantize(self, workspace: Arrays, columns: int) -> tuple[NDArray[np.int8], Floats]:
        """Put rows of NORMED into QNORMED; gives them, and their scales."""

    def run(self, program: Any, workspace: Arrays) -> None: ...


class OnGang:
    """The CPU."""

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._pages: list[Bytes] = []  # what tables point to

    def matrix(self, w: PackedMatrix) -> PackedMatrix:
        return w

    def program(self, widths: Widths) -> Program:
        return Program()

    def workspace(self, widths: Widths, rows: int) -> Workspace:
        return Workspace(widths, rows=rows, tail=rows, threads=self._gang.threads)

    def pages(self, program: Program, kv: KVShape, positions: int) -> NDArray[np.int64]:
        self._pages = [new_page(kv) for _ in range(-(-positions // PAGE_POSITIONS))]
        return np.array([page.ctypes.data for page in self._pages], np.int64)

    def quantize(self, workspace: Workspace, columns: int) -> tuple[NDArray[np.int8], Floats]:
        (x, x_stride), (q, q_stride) = workspace.table[[Buffer.NORMED, Buffer.QNORMED]]
        _quantize_rows(x, x_stride, q, q_stride, columns, workspace.rows)
        rows = workspace.array(Buffer.QNORMED).reshape(workspace.rows, -1)
        scales = rows[:, columns : columns + columns // BLOCK * 4].copy().view(np.float32)
        return rows[:, :columns].view(np.int8).copy(), scales

    def run(self, program: Program, workspace: Workspace) -> None:
        self._gang.run(program, workspace)


On = Runner | Gang | None
"""What to run on: a gang stands for itself, None for the calling thread alone."""


def _runner(on: On) -> Any:
    return OnGang(on or Gang(1)) if on is None or isinstance(on, Gang) else on


def matmul(w: PackedMatrix, x: Floats, *, on: On = None) -> Floats:
    """x @ W.T: float32 [T, w.rows] of x float32 [T, w.columns]."""
    x = _floats("x", x, (None, w.columns))

    runner = _runner(on)
    matrix = runner.matrix(w)

    def build(program: Operations[Any]) -> None:
        source = Buffer.QNORMED if w.format.quantized else Buffer.NORMED
        program.matmul(matrix, source=source, out=Buffer.QKV)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.NORMED)[:, : w.columns] = x
        if w.format.quantized:
            runner.quantize(workspace, w.columns)

    workspace = _run(len(x), build, fill, runner, hidden=w.columns, qkv=w.rows)
    return workspace.floats(Buffer.QKV)[:, : w.rows].copy()


def quantize_activations(x: Floats, *, on: On = None) -> tuple[NDArray[np.int8], Floats]:
    """(q int8 [T, K], scale float32 [T, K/32]) of x float32 [T, K]; K is a multiple of 32."""
    x = _floats("x", x, (None, None))
    columns = _multiple("columns of x", x.shape[1], BLOCK)
    runner = _runner(on)
    workspace = runner.workspace(_widths(len(x), hidden=columns), len(x))
    workspace.floats(Buffer.NORMED)[:, :columns] = x
    quantized: tuple[NDArray[np.int8], Floats] = runner.quantize(workspace, columns)
    return quantized


def embed(w: PackedMatrix, tokens: NDArray[np.int32], scale: float = 1.0, *, on: On = None) -> Floats:
    """float32 [T, w.columns]: rows `tokens` (int32 [T]) of w, times `scale`."""
    if not isinstance(tokens, np.ndarray) or tokens.dtype != np.int32 or tokens.ndim != 1 or not len(tokens):
        raise TypeError("tokens must be a one-dimensional int32 array that is not empty")
    if tokens.min() < 0 or tokens.max() >= w.rows:
        raise ValueError(f"tokens go from {tokens.min()} to {tokens.max()}, but the matrix has {w.rows} rows")
    _multiple("columns of w", w.columns, BLOCK)

    runner = _runner(on)
    matrix = runner.matrix(w)

    def build(program: Operations[Any]) -> None:
        program.embed(matrix, out=Buffer.HIDDEN, scale=scale)

    workspace = _run(len(tokens), build, lambda _: None, runner, tokens=tokens, hidden=w.columns)
    return workspace.floats(Buffer.HIDDEN)[:, : w.columns].copy()


def add_bias(x: Floats, bias: Floats, *, on: On = None) -> Floats:
    """x + bias: float32 [T, K] of x float32 [T, K] and bias float32 [K]."""
    x = _floats("x", x, (None, None))
    columns = x.shape[1]
    bias = _floats("bias", bias, (columns,))

    def build(program: Operations[Any]) -> None:
        program.bias(bias, out=Buffer.QKV)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.QKV)[:, :columns] = x

    return _run(len(x), build, fill, on, qkv=columns).floats(Buffer.QKV)[:, :columns].copy()


def rms_norm(x: Floats, weight: Floats, eps: float, *, to: Floats | None = None, on: On = None) -> Floats:
    """float32 [T, K] of x float32 [T, K] and weight float32 [K], added to `to` if given; K is a multiple of
    32.
    """
    x = _floats("x", x, (None, None))
    columns = _multiple("columns of x", x.shape[1], BLOCK)
    weight = _floats("weight", weight, (columns,))

    def build(program: Operations[Any]) -> None:
        qout = Buffer.QNORMED if to is None else None
        program.norm(
            weight, eps, columns, source=Buffer.HIDDEN, out=Buffer.NORMED, qout=qout, add=to is not None
        )

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.HIDDEN)[:, :columns] = x
        if to is not None:
            workspace.floats(Buffer.NORMED)[:, :columns] = _floats("to", to, x.shape)

    return _run(len(x), build, fill, on, hidden=columns).floats(Buffer.NORMED)[:, :columns].copy()


def gated(gate: Floats, up: Floats, *, activation: Activation, on: On = None) -> Floats:
    """f(gate) * up: float32 [T, K] each; K is a multiple of 32."""
    gate = _floats("gate", gate, (None, None))
    columns = _multiple("columns of gate", gate.shape[1], BLOCK)
    up = _floats("up", up, gate.shape)

    def build(program: Operations[Any]) -> None:
        program.gate(
            columns, gate_up=Buffer.GATE_UP, out=Buffer.GATED, qout=Buffer.QGATED, activation=activation
        )

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.GATE_UP)[:, : 2 * columns] = np.concatenate([gate, up], axis=1)

    return _run(len(gate), build, fill, on, gated=columns).floats(Buffer.GATED)[:, :columns].copy()


def rope(
    x: Floats,
    turns: Floats,
    *,
    halves: bool,
    weight: Floats | None = None,
    eps: float = 0.0,
    on: On = None,
) -> Floats:
    """x float32 [T, heads, n] with token t turned by row t of `turns` float32 [T, width/2, 2]; n a multiple
    of 32. With a `weight` float32 [n], each head is normalised first.
    """
    x = _floats("x", x, (None, None, None))
    count, heads, size = x.shape
    _multiple("head size", size, BLOCK)
    turns = _floats("turns", turns, (count, None, 2))
    if not 0 < turns.shape[1] * 2 <= size:
        raise ValueError(f"turns for {turns.shape[1]} pairs do not fit a head of {size} values")
    blank = np.zeros((count, 1, size), np.float32)
    norms = None if weight is None else (_floats("weight", weight, (size,)),) * 2

    def build(program: Operations[Any], kv: KVShape) -> None:
        program.rope_kv(kv, 0, heads, turns, halves=halves, qkv=Buffer.QKV, norms=norms, eps=eps)

    workspace = _with_cache(x, blank, blank, build, on)
    return workspace.floats(Buffer.QKV)[:, : heads * size].reshape(x.shape).copy()


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    *,
    window: int = 0,
    scale: float | None = None,
    bits: int = 16,
    on: On = None,
) -> Floats:
    """Causal attention: float32 [T, heads, n] of q [T, heads, n], k and v [T, KV heads, n], through a cache
    of float16 or int8 values (`bits` 16 or 8).

    heads is a multiple of KV heads, n of 32. `window`: how many positions a query sees, 0 for all; `scale` of
    the scores: default 1/sqrt(n).
    """
    if window < 0:
        raise ValueError(f"a window is a number of positions, not {window}")
    q = _floats("q", q, (None, None, None))
    count, heads, size = q.shape
    _multiple("head size", size, BLOCK)
    k = _floats("k", k, (count, None, size))
    v = _floats("v", v, k.shape)
    _multiple("query heads", heads, k.shape[1])
    still = np.zeros((count, size // 2, 2), np.float32)
    still[..., 0] = 1

    def build(program: Operations[Any], kv: KVShape) -> None:
        program.rope_kv(kv, 0, heads, still, halves=False, qkv=Buffer.QKV)
        program.attend(
            kv,
            0,
            heads,
            qkv=Buffer.QKV,
            out=Buffer.ATTENDED,
            qout=Buffer.QATTENDED,
            window=window,
            scale=scale,
        )

    workspace = _with_cache(q, k, v, build, on, bits)
    return workspace.floats(Buffer.ATTENDED)[:, : heads * size].reshape(q.shape).copy()


def attention_whole(q: Floats, k: Floats, v: Floats, *, on: On = None) -> Floats:
    """The same where every query sees every key, through a cache of float16 values."""
    q = _floats("q", q, (None, None, None))
    count, heads, size = q.shape
    _multiple("head size", size, BLOCK)
    k = _floats("k", k, (count, None, size))
    v = _floats("v", v, k.shape)
    _multiple("query heads", heads, k.shape[1])
    still = np.zeros((count, 0, 2), np.float32)

    def build(program: EncoderOperations[Any], kv: KVShape) -> None:
        program.rope_kv(kv, 0, heads, still, halves=False, qkv=Buffer.QKV)
        program.attend(kv, 0, heads, qkv=Buffer.QKV, out=Buffer.ATTENDED, qout=Buffer.QATTENDED, whole=True)

    workspace = _with_cache(q, k, v, build, on, texts=[count])
    return workspace.floats(Buffer.ATTENDED)[:, : heads * size].reshape(q.shape).copy()


def layer_norm(
    x: Floats, shift: Floats, weight: Floats, bias: Floats, eps: float, *, on: On = None
) -> Floats:
    """float32 [T, K] of x float32 [T, K], shift [K] or [T, K], weight and bias float32 [K]; K a multiple of
    32.
    """
    x = _floats("x", x, (None, None))
    columns = _multiple("columns of x", x.shape[1], BLOCK)
    weight, bias = _floats("weight", weight, (columns,)), _floats("bias", bias, (columns,))
    shift = _floats("shift", shift, (columns,) if np.ndim(shift) == 1 else x.shape)

    def build(program: EncoderOperations[Any]) -> None:
        program.layer_norm(weight, bias, eps, out=Buffer.HIDDEN, qout=Buffer.QNORMED, shift=shift)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.HIDDEN)[:, :columns] = x

    return _run(len(x), build, fill, on, hidden=columns).floats(Buffer.HIDDEN)[:, :columns].copy()


def gelu(x: Floats, shift: Floats, *, on: On = None) -> Floats:
    """GELU of x float32 [T, K] plus shift float32 [K]; K a multiple of 32."""
    x = _floats("x", x, (None, None))
    columns = _multiple("columns of x", x.shape[1], BLOCK)
    shift = _floats("shift", shift, (columns,))

    def build(program: EncoderOperations[Any]) -> None:
        program.gelu(shift, out=Buffer.GATED, qout=Buffer.QGATED)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.GATED)[:, :columns] = x

    return _run(len(x), build, fill, on, gated=columns).floats(Buffer.GATED)[:, :columns].copy()


def pool(x: Floats, spans: list[tuple[int, int]], *, on: On = None) -> Floats:
    """float32 [texts, K]: the mean of each text's rows of x float32 [T, K], divided by its norm.

    `spans`: (first row, count) of each text, one behind the other, all of x; K is a multiple of 32.
    """
    x = _floats("x", x, (None, None))
    columns = _multiple("columns of x", x.shape[1], BLOCK)
    lengths = [count for _, count in spans]
    if [first for first, _ in spans] != [sum(lengths[:i]) for i in range(len(spans))] or (
        sum(lengths) != len(x) or min(lengths) < 1
    ):
        raise ValueError(f"spans {spans} do not share out the {len(x)} rows of x one behind the other")

    def build(program: EncoderOperations[Any]) -> None:
        program.pool(columns, source=Buffer.HIDDEN, out=Buffer.POOLED)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.HIDDEN)[:, :columns] = x

    workspace = _run(len(x), build, fill, on, texts=lengths, hidden=columns, pooled=columns)
    return workspace.floats(Buffer.POOLED)[: len(spans), :columns].copy()


def best_and_log_sum(logits: Floats, *, on: On = None) -> tuple[NDArray[np.int64], Floats]:
    """(best token [T], log Σ exp [T]) of logits float32 [T, vocabulary]."""
    logits = _floats("logits", logits, (None, None))
    vocabulary = logits.shape[1]

    def build(program: Operations[Any]) -> None:
        program.summary(vocabulary, logits=Buffer.LOGITS, out=Buffer.SUMMARY)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.LOGITS)[:, :vocabulary] = logits

    best, total = _run(len(logits), build, fill, on, vocabulary=vocabulary).summaries
    return best.copy(), total.copy()


def _with_cache(
    q: Floats,
    k: Floats,
    v: Floats,
    build: Callable[[Any, KVShape], None],
    on: On,
    bits: int = 16,
    texts: list[int] | None = None,
) -> Arrays:
    count, heads, size = q.shape
    kv = KVShape(1, k.shape[1], size, bits)
    row = np.concatenate([q.reshape(count, -1), k.reshape(count, -1), v.reshape(count, -1)], axis=1)

    def fill(workspace: Arrays) -> None:
        workspace.floats(Buffer.QKV)[:, : row.shape[1]] = row

    widths = {"qkv": row.shape[1], "attended": heads * size, "heads": heads}
    return _run(count, lambda program: build(program, kv), fill, on, kv=kv, texts=texts, **widths)


def _widths(rows: int, **widths: int) -> Widths:
    sizes = dict.fromkeys(("hidden", "qkv", "attended", "gated", "vocabulary"), BLOCK) | widths
    return Widths(**sizes, context=rows)


def _run(
    rows: int, build: Callable[[Any], None], fill: Callable[[Arrays], None], on: On,
    kv: KVShape | None = None, tokens: NDArray[np.int32] | None = None,
    texts: list[int] | None = None, **widths: int,
) -> Arrays:  # fmt: skip
    runner, sizes = _runner(on), _widths(rows, **widths)
    program = runner.program(sizes)
    build(program)
    program.finish()
    workspace: Any = runner.workspace(sizes, rows)
    table = np.zeros(1, np.int64) if kv is None else runner.pages(program, kv, rows)
    tokens = np.zeros(rows, np.int32) if tokens is None else tokens
    if texts is None:
        workspace.begin(tokens, np.arange(rows, dtype=np.int32), [table] * rows, tail=rows)
    else:
        workspace.begin_texts(tokens, texts, [table] * len(texts))
    fill(workspace)
    runner.run(program, workspace)
    filled: Arrays = workspace
    return filled


def _floats(name: str, array: Any, shape: tuple[int | None, ...]) -> Floats:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        came = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a float32 array, not a {came}; convert it with .astype(np.float32)")
    matches = array.ndim == len(shape) and all(
        w is None or w == h for w, h in zip(shape, array.shape, strict=True)
    )
    if not matches or array.size == 0:
        expected = "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
        raise ValueError(f"{name} has shape {list(array.shape)}, where a non-empty {expected} was expected")
    return np.ascontiguousarray(array)


def _multiple(name: str, value: int, of: int) -> int:
    if value % of:
        raise ValueError(f"{name}: {value} is not a multiple of {of}")
    return value


@entry
def _quantize_rows(x, x_stride, q, q_stride, columns, rows):  # type: ignore[no-untyped-def]
    for t in range(rows):
        activations.quantize_row(x + t * x_stride, q + t * q_stride, columns)
