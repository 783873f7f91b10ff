"""The workspaces of a model's steps: lent to one step at a time, and kept for the next as long as jobs run.

A step that is suspended keeps its own, so there are as many as steps half-done at once: one, and one more for
each that gave way to another. Jobs see to it, with their pages, that there is one of the size they need;
what a step needs beyond that it takes only if nobody waits for memory. With nothing left it gets one row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coro_rt.kernels.kv import PAGE_POSITIONS
from coro_rt.kernels.operations import Steps
from coro_rt.memory.budget import Kind, Reservation

if TYPE_CHECKING:
    from .decoder import Model

__all__ = ["Workspaces"]

_KEPT = 2  # idle ones for each worker: for a step, and for one that interrupts it


class Workspaces:
    """Lent and given back by the workers of the devices that run the model's steps, most often one."""

    def __init__(self, model: Model) -> None:
        self._model, self._residency = model, model.residency
        self._lock = threading.RLock()
        self._workers: set[int] = set()  # that have come for one, by their threads
        self._idle: list[Steps] = []
        self._reservations: dict[Steps, Reservation] = {}
        self._nowhere: tuple[NDArray[np.int64], Callable[[], None]] | None = None

    def lacking(self, rows: int) -> int:
        """Bytes to `provide` so that there is a workspace for `rows` tokens; 0 if there is, or in use."""
        with self._lock:
            return 0 if any(one.rows >= rows for one in self._reservations) else self.bytes_for(rows)

    def bytes_for(self, rows: int) -> int:
        """Of a workspace for `rows` tokens of one sequence; 0 for none."""
        return 0 if not rows else self._model.workspace_bytes(_rounded(rows), 1)

    def provide(self, rows: int, grant: Reservation) -> None:
        """One more, paid from `grant`; if there still is none."""
        with self._lock:
            nbytes = self.lacking(rows)
            if 0 < nbytes <= grant.nbytes:
                paid = grant.split(nbytes, Kind.WORKSPACES)
                self._idle.append(self._add(_rounded(rows), 1, paid))

    def spare_bytes(self, rows: int) -> int:
        """What `trim` would free, less what has to be provided only then."""
        with self._lock:
            provides = self.lacking(rows) > 0  # anyway
            spare = self._spare(rows)
            kept = any(one.rows >= rows for one in self._reservations if one not in spare)
            freed = sum(self._reservations[one].nbytes for one in spare)
            if self._nowhere is not None and not self._in_use():
                freed += self._model.sizes.kv.page_bytes
            return max(0, freed - (0 if kept or provides else self.bytes_for(rows)))

    def trim(self, rows: int) -> None:
        """Give back the idle ones that a step of `rows` tokens does not need (0: all)."""
        with self._lock:
            for one in self._spare(rows):
                self._drop(one)
            self._drop_nowhere()

    def _spare(self, rows: int) -> list[Steps]:
        """The idle ones, but for one of just the right size if no other will do."""
        exact = [one for one in self._idle if (one.rows, one.tail) == (_rounded(rows), 1)] if rows else []
        if exact and not any(one.rows >= rows for one in self._in_use()):
            return [one for one in self._idle if one is not exact[0]]
        return list(self._idle)

    def lend(self, rows: int, tail: int) -> Steps:
        """Buffers for a step of `rows` tokens, `tail` of them with logits; or smaller ones."""
        with self._lock:
            self._workers.add(threading.get_ident())
            return self._lend(rows, tail)

    def _lend(self, rows: int, tail: int) -> Steps:
        fitting = [one for one in self._idle if one.rows >= rows and one.tail >= tail]
        if fitting:
            found = min(fitting, key=_size)
            self._idle.remove(found)
            return found
        if not self._residency.crowded:
            shape = _rounded(rows), _rounded(tail)
            nbytes = self._model.workspace_bytes(*shape)
            paid = self._residency.budget.try_reserve(nbytes, "a step", Kind.WORKSPACES)
            if paid is not None:
                return self._add(*shape, paid)
        if self._idle:
            found = max(self._idle, key=_size)
            self._idle.remove(found)
            return found
        # A step that was interrupted has the one that there is. This one cannot wait for it; a row is little.
        paid = self._residency.budget.overdraw(self._model.workspace_bytes(1, 1), Kind.WORKSPACES)
        return self._add(1, 1, paid)

    def give_back(self, workspace: Steps) -> None:
        """After its step."""
        with self._lock:
            self._idle.append(workspace)
            if self._model.lost is not None:
                self._drop(workspace)
            elif len(self._idle) > _KEPT * len(self._workers):
                self._drop(min(self._idle, key=_size))

    def nowhere(self) -> NDArray[np.int64]:
        """A table of pages for rows that go on without their sequence: one page, which nobody reads, over and
        over. Raises MemoryBudgetExceeded."""
        with self._lock:
            if self._nowhere is None:
                page, give_back = self._model.spare_page()
                count = -(-self._model.context // PAGE_POSITIONS)
                self._nowhere = np.full(count, page, np.int64), give_back
            return self._nowhere[0]

    def _add(self, rows: int, tail: int, paid: Reservation) -> Steps:
        try:
            workspace: Steps = self._model.new_workspace(rows, tail)
        except BaseException:  # a device is found to be lost, or has no room
            paid.release()
            raise
        self._reservations[workspace] = paid
        return workspace

    def _in_use(self) -> list[Steps]:
        return [one for one in self._reservations if one not in self._idle]

    def _drop_nowhere(self) -> None:
        """Unless a step may be writing to it."""
        if self._nowhere is not None and not self._in_use():
            self._nowhere[1]()
            self._nowhere = None

    def _drop(self, workspace: Steps) -> None:
        self._idle.remove(workspace)
        if self._model.lost is None:  # else it is not to be touched
            workspace.release()
        self._reservations.pop(workspace).release()


def _rounded(count: int) -> int:
    """Up to a power of two, so that few sizes serve all steps; from 128 on, to a multiple of 32."""
    return 1 << (count - 1).bit_length() if count <= 128 else -(-count // 32) * 32


def _size(workspace: Steps) -> tuple[int, int]:
    return workspace.rows, workspace.tail
