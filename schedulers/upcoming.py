"""The first few of a ready queue, in the order in which they would be granted as things stand.

For people, so it takes nothing out and takes bounded time, however many are ready: heaps are walked in order
from their tops, and each entry is thought to run for one slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import TYPE_CHECKING, Any

from coro_rt.schedulers.entry import Entry

if TYPE_CHECKING:
    from coro_rt.schedulers.ready import Lane, ReadyQueue

_STALE_PER_ENTRY = 8  # invalid items that are looked at for each entry that is asked for


def upcoming(queue: ReadyQueue, now: float, *, slice_s: float, limit: int) -> list[Entry]:
    """At most `limit` ready entries, soonest first.

    The first is who would be granted now; then the expedited; then tenants by virtual time, and inside a
    tenant by key. Who will be overdue, or gets background's share, is not foreseen. Takes a time that depends
    on `limit` and on the number of tenants alone.
    """
    picked = queue.pick(now)
    if picked is None or limit < 1:
        return []
    found = {picked[0]: None}
    for entry in islice(queue.expedited, _STALE_PER_ENTRY * limit):
        if entry.expedited:
            found[entry] = None
    for entry in _in_turns(queue, slice_s, _STALE_PER_ENTRY * limit):
        if len(found) >= limit:
            break
        found[entry] = None
    return list(found)[:limit]


def _in_turns(queue: ReadyQueue, slice_s: float, steps: int) -> Iterator[Entry]:
    """The entries of all tenants: those with foreground work first, then by virtual time."""
    lines = [line for lane in queue.lanes.values() if (line := _Line(lane, steps)).head is not None]
    order = [(*line.place, number, line) for number, line in enumerate(lines)]
    heapify(order)
    while order:
        *_, number, line = order[0]
        entry = line.head
        assert entry is not None
        yield entry
        line.advance(slice_s)
        if line.head is None:
            heappop(order)
        else:
            heapreplace(order, (*line.place, number, line))


class _Line:
    """One tenant's entries by key, and where the tenant would stand after each."""

    __slots__ = ("_background", "_foreground", "_heaps", "_pace", "_vtime", "head")

    def __init__(self, lane: Lane, steps: int) -> None:
        self._heaps = (_in_order(lane.foreground, steps), _in_order(lane.background, steps))
        self._pace = lane.pace
        self._vtime = lane.vtime
        self._foreground, self._background = (next(heap, None) for heap in self._heaps)
        self._find_head()

    @property
    def place(self) -> tuple[bool, float]:
        """Smaller goes first."""
        return self._foreground is None, self._vtime

    def advance(self, slice_s: float) -> None:
        """Its head has run."""
        if self._foreground is not None and self.head is self._foreground[2]:
            self._foreground = next(self._heaps[0], None)
        else:
            self._background = next(self._heaps[1], None)
        self._vtime += slice_s * self._pace
        self._find_head()

    def _find_head(self) -> None:
        heads = [item for item in (self._foreground, self._background) if item is not None]
        self.head: Entry | None = min(heads)[2] if heads else None


def _in_order(heap: list[Any], steps: int) -> Iterator[Any]:
    """The valid items of a heap, smallest first, found in at most so many steps; the heap stays as it is."""
    frontier = [(heap[0], 0)] if heap else []
    for _ in range(steps):
        if not frontier:
            return
        item, index = heappop(frontier)
        if item[1] == item[2].ticket:
            yield item
        for child in (2 * index + 1, 2 * index + 2):
            if child < len(heap):
                heappush(frontier, (heap[child], child))
