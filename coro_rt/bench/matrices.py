"""Single matrix products beside the machine's limits: the two lines of a roofline.

A product is a program of one operation on a gang, which is what a model runs, repeated until a run takes some
20 ms, so that waking the helpers does not count. Bytes are counted as in the file format. Few rows are bound
by the bytes read, many by the products; so each case has a row for either, and the bandwidth is a limit only
for a matrix that no cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from coro_rt.kernels.formats import Format
from coro_rt.kernels.gang import Gang
from coro_rt.kernels.packed import PackedMatrix
from coro_rt.kernels.program import Buffer, Program
from coro_rt.kernels.workspace import Widths, Workspace

from .limits import Limits
from .machine import last_cache_bytes
from .measure import Row

COLUMNS = 1536
ROWS = (1, 4, 128)
"""Rows of activations: decoding one sequence, decoding four, reading a prompt."""
RUN_S = 0.02


class Case:
    """A matrix and so many rows of activations, ready to run."""

    def __init__(self, weight: PackedMatrix, rows: int, gang: Gang) -> None:
        self.weight, self.rows, self._gang = weight, rows, gang
        widths = Widths(COLUMNS, weight.rows, COLUMNS, 32, 32, 32)
        self._workspace = Workspace(widths, rows=rows, tail=0, threads=gang.threads)
        self._workspace.floats(Buffer.HIDDEN)[:, :COLUMNS] = values(rows)
        activations = Program()
        activations.norm(
            np.ones(COLUMNS, np.float32), 1e-5, COLUMNS,
            source=Buffer.HIDDEN, out=Buffer.NORMED, qout=Buffer.QNORMED,
        )  # fmt: skip
        self._program = activations.finish()
        self._once()
        self._program, self._times = self._repeated(1), 1
        self._times = max(1, round(RUN_S / min(self._once(), self._once())))
        self._program = self._repeated(self._times)

    def seconds(self) -> float:
        """Of one product, in one run."""
        return self._once() / self._times

    def _repeated(self, times: int) -> Program:
        program = Program()
        source = Buffer.QNORMED if self.weight.format.quantized else Buffer.NORMED
        for _ in range(times):
            program.matmul(self.weight, source=source, out=Buffer.QKV)
        return program.finish()

    def _once(self) -> float:
        tokens = np.zeros(self.rows, np.int32)
        self._workspace.begin(tokens, tokens, [np.zeros(1, np.int64)] * self.rows, tail=0)
        began = time.perf_counter()
        self._gang.run(self._program, self._workspace)
        return time.perf_counter() - began


def measure(threads: int, names: Sequence[str], repeat: int, *, large: int | None = None) -> Iterator[Row]:
    """Two rows for each case, GB/s and GMAC/s. `large`: bytes of the matrix that is to be in no cache."""
    large = large or max(4 * last_cache_bytes(), 64 << 20)
    gang = Gang(threads)
    gang.start()
    try:
        for name in names:
            yield from _of_format(Format.known[name], gang, repeat, large)
    finally:
        gang.close()


def _of_format(form: Format, gang: Gang, repeat: int, large: int) -> list[Row]:
    small = PackedMatrix.from_float(form, values(COLUMNS))
    height = -(-large // form.row_bytes(COLUMNS) // COLUMNS) * COLUMNS
    cases = [
        (f"{weight.rows} x {COLUMNS}, {rows} row{'s'[: rows > 1]}{where}", Case(weight, rows, gang))
        for weight, where in ((small, ""), (taller(small, height), ", beyond the caches"))
        for rows in ROWS
    ]
    limits = Limits(gang.threads)  # of these minutes: neighbours come and go
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(repeat):
        limits.look()
        for (_, case), samples in zip(cases, seconds, strict=True):
            samples.append(case.seconds())
    rows = []
    for (what, case), samples in zip(cases, seconds, strict=True):
        nbytes = case.weight.rows * form.row_bytes(COLUMNS)
        products = case.weight.rows * COLUMNS * case.rows
        bandwidth = limits.bandwidth / 1e9 if "beyond" in what else None
        peak = limits.products / 1e9 if form.quantized else None
        for unit, amount, limit in (("GB/s", nbytes, bandwidth), ("GMAC/s", products, peak)):
            figures = [amount / one / 1e9 for one in samples]
            rows.append(Row(what, unit, figures, format=form.name, threads=gang.threads, limit=limit))
    return rows


def values(rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((rows, COLUMNS), dtype=np.float32)


def taller(matrix: PackedMatrix, rows: int) -> PackedMatrix:
    """The same matrix again and again; quantizing that many rows would take minutes."""
    tall = PackedMatrix(matrix.format, rows, matrix.columns)
    tall.data.reshape(-1, matrix.nbytes)[:] = matrix.data
    return tall
