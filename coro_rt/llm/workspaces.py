"""The workspaces of a model's steps: lent to one step at a time, and kept for the next as long as jobs run.

A step that is suspended keeps its own, so there are as many as steps half-done at once: one, and one more for
each that gave way to another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.kernels.formats import Bytes
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape, new_page
from coro_rt.kernels.program import Widths, Workspace
from coro_rt.memory import MemoryBudget, Reservation

__all__ = ["Workspaces"]

_KEPT = 2  # idle ones: for a step, and for one that interrupts it


class Workspaces:
    """Touched by the worker that runs the model's steps, and by nobody else."""

    def __init__(self, widths: Widths, kv: KVShape, threads: int, budget: MemoryBudget) -> None:
        self._widths, self._kv, self._threads, self._budget = widths, kv, threads, budget
        self._idle: list[Workspace] = []
        self._reservations: dict[Workspace, Reservation] = {}
        self._nowhere: tuple[Bytes, NDArray[np.int64], Reservation] | None = None

    def lend(self, rows: int, tail: int) -> Workspace:
        """Buffers for a step of `rows` tokens, `tail` of them with logits; smaller ones if memory is short.

        Raises MemoryBudgetExceeded if there is not even room for one token.
        """
        fitting = [one for one in self._idle if one.rows >= rows and one.tail >= tail]
        if fitting:
            found = min(fitting, key=_size)
            self._idle.remove(found)
            return found
        try:
            return self._new(_rounded(rows), _rounded(tail))
        except MemoryBudgetExceeded as error:
            if self._idle:
                found = max(self._idle, key=_size)
                self._idle.remove(found)
                return found
            while (rows, tail) != (1, 1):
                rows, tail = (rows + 1) // 2, (tail + 1) // 2
                try:
                    return self._new(rows, tail)
                except MemoryBudgetExceeded:
                    continue
            raise error from None

    def give_back(self, workspace: Workspace) -> None:
        """After its step."""
        self._idle.append(workspace)
        if len(self._idle) > _KEPT:
            smallest = min(self._idle, key=_size)
            self._idle.remove(smallest)
            self._reservations.pop(smallest).release()

    def nowhere(self) -> NDArray[np.int64]:
        """A table of pages for rows that go on without their sequence: one page, which nobody reads, over and
        over. Raises MemoryBudgetExceeded."""
        if self._nowhere is None:
            reservation = self._budget.reserve(self._kv.page_bytes, "a page of keys and values")
            page = new_page(self._kv)
            pages = -(-self._widths.context // PAGE_POSITIONS)
            self._nowhere = page, np.full(pages, page.ctypes.data, np.int64), reservation
        return self._nowhere[1]

    def clear(self) -> None:
        """Give back what no step is using."""
        for workspace in self._idle:
            self._reservations.pop(workspace).release()
        self._idle.clear()
        if self._nowhere is not None and not self._reservations:
            self._nowhere[2].release()
            self._nowhere = None

    def _new(self, rows: int, tail: int) -> Workspace:
        shape = {"rows": rows, "tail": tail, "threads": self._threads}
        nbytes = Workspace.nbytes_of(self._widths, **shape)
        reservation = self._budget.reserve(nbytes, f"a step of {rows} tokens")
        try:
            workspace = Workspace(self._widths, **shape)
        except BaseException:
            reservation.release()
            raise
        self._reservations[workspace] = reservation
        return workspace


def _rounded(count: int) -> int:
    """Up to a power of two, so that few sizes serve all steps; from 128 on, to a multiple of 32."""
    return 1 << (count - 1).bit_length() if count <= 128 else -(-count // 32) * 32


def _size(workspace: Workspace) -> tuple[int, int]:
    return workspace.rows, workspace.tail
