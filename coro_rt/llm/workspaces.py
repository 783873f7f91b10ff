"""The workspaces of a model's steps: lent to one step at a time, and kept for the next as long as jobs run.

A step that is suspended keeps its own, so there are as many as steps half-done at once: one, and one more for
each that gave way to another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.kernels.kv import PAGE_POSITIONS, KVShape, new_page
from coro_rt.kernels.operations import Steps
from coro_rt.kernels.program import Widths, Workspace
from coro_rt.memory import MemoryBudget, Reservation

__all__ = ["Workspaces"]

_KEPT = 2  # idle ones for each worker: for a step, and for one that interrupts it


class Workspaces:
    """Lent and given back by the workers of the devices that run the model's steps, most often one."""

    def __init__(self, widths: Widths, kv: KVShape, threads: int, budget: MemoryBudget) -> None:
        self._lock = threading.Lock()
        self._workers: set[int] = set()  # that have come for one, by their threads
        self._widths, self._kv, self._threads, self._budget = widths, kv, threads, budget
        self._idle: list[Steps] = []
        self._reservations: dict[Steps, Reservation] = {}
        self._nowhere: tuple[NDArray[np.int64], Callable[[], None]] | None = None

    def lend(self, rows: int, tail: int) -> Steps:
        """Buffers for a step of `rows` tokens, `tail` of them with logits; smaller ones if memory is short.

        Raises MemoryBudgetExceeded if there is not even room for one token.
        """
        with self._lock:
            self._workers.add(threading.get_ident())
            return self._lend(rows, tail)

    def give_back(self, workspace: Steps) -> None:
        """After its step."""
        with self._lock:
            self._idle.append(workspace)
            if len(self._idle) > _KEPT * len(self._workers):
                smallest = min(self._idle, key=_size)
                self._idle.remove(smallest)
                self._discard(smallest)

    def nowhere(self) -> NDArray[np.int64]:
        """A table of pages for rows that go on without their sequence: one page, which nobody reads, over and
        over. Raises MemoryBudgetExceeded."""
        with self._lock:
            if self._nowhere is None:
                page, give_back = self._spare_page()
                self._nowhere = (
                    np.full(-(-self._widths.context // PAGE_POSITIONS), page, np.int64), give_back,
                )  # fmt: skip
            return self._nowhere[0]

    def clear(self) -> None:
        """Give back what no step is using."""
        with self._lock:
            for workspace in self._idle:
                self._discard(workspace)
            self._idle.clear()
            if self._nowhere is not None and not self._reservations:
                self._nowhere[1]()
                self._nowhere = None

    def _lend(self, rows: int, tail: int) -> Steps:
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

    def _new(self, rows: int, tail: int) -> Steps:
        reservation = self._budget.reserve(self._nbytes(rows, tail), f"a step of {rows} tokens")
        try:
            workspace = self._make(rows, tail)
        except BaseException:
            reservation.release()
            raise
        self._reservations[workspace] = reservation
        return workspace

    def _discard(self, workspace: Steps) -> None:
        workspace.release()
        self._reservations.pop(workspace).release()

    # What other kinds of device do in their own way.

    def _nbytes(self, rows: int, tail: int) -> int:
        return Workspace.nbytes_of(self._widths, rows=rows, tail=tail, threads=self._threads)

    def _make(self, rows: int, tail: int) -> Steps:
        return Workspace(self._widths, rows=rows, tail=tail, threads=self._threads)

    def _spare_page(self) -> tuple[int, Callable[[], None]]:
        """A page as tables have it, and how it is given back."""
        reservation = self._budget.reserve(self._kv.page_bytes, "a page of keys and values")
        self._page = new_page(self._kv)
        return self._page.ctypes.data, reservation.release


def _rounded(count: int) -> int:
    """Up to a power of two, so that few sizes serve all steps; from 128 on, to a multiple of 32."""
    return 1 << (count - 1).bit_length() if count <= 128 else -(-count // 32) * 32


def _size(workspace: Steps) -> tuple[int, int]:
    return workspace.rows, workspace.tail
