"""A worker's sleeping jobs, the next to wake first."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coro_rt.traps import Sleep


class Sleepers:
    """A heap of times. Everything under the engine's lock; `until` may be read without."""

    __slots__ = ("_dead", "_heap", "_order", "until")

    def __init__(self) -> None:
        self.until = math.inf  # the first of them, dead ones included
        self._heap: list[tuple[float, int, Sleep]] = []
        self._order = count()
        self._dead = 0

    def add(self, sleep: Sleep, until: float) -> None:
        """One more."""
        heappush(self._heap, (until, next(self._order), sleep))
        self.until = self._heap[0][0]

    def forget(self) -> None:
        """One of them is dead (`sleep.job` is None). When most are, they are thrown out together."""
        self._dead += 1
        if self._dead > 32 and self._dead * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].job is not None]
            heapify(self._heap)
            self._dead = 0
            self.until = self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> list[Sleep]:
        """Those whose time has come, taken out, in order."""
        found = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            sleep = heappop(heap)[2]
            if sleep.job is None:
                self._dead -= 1
            else:
                found.append(sleep)
        self.until = heap[0][0] if heap else math.inf
        return found
