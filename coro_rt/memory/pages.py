"""Pages of keys and values: what sequences hold, share and leave behind.

A page belongs to all sequences that use it, and perhaps to the prefixes that later prompts may begin with
(prefixes.py). One that nobody uses any more is kept if it is such a prefix, the latest used longest, until
somebody needs the memory; else it goes back to the system at once: a fresh page costs some tenths of a
millisecond, and filling it takes a hundred times as long.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from coro_rt.memory.budget import Kind, MemoryBudget, Reservation
from coro_rt.memory.parking import Parking, Slot

if TYPE_CHECKING:
    from coro_rt.memory.prefixes import Node

LARGEST_CACHE = 128 * 2**20
"""Bytes of pages that nobody uses; a quarter of the budget at most."""


class Page:
    """`data` is there, or else `slot` says where it is parked. Touched under the store's lock."""

    __slots__ = ("data", "nbytes", "node", "reservation", "slot", "users")

    def __init__(self, nbytes: int, reservation: Reservation) -> None:
        self.nbytes = nbytes
        self.users = 1  # sequences
        self.node: Node | None = None  # its place among the prefixes
        self.slot: Slot | None = None
        self.data: mmap.mmap | None = None
        self.reservation: Reservation | None = None
        self.bring(reservation)

    @property
    def address(self) -> int:
        """Of its memory; 0 if it has none."""
        return 0 if self.data is None else ctypes.addressof(ctypes.c_char.from_buffer(self.data))

    def bring(self, reservation: Reservation) -> mmap.mmap:
        """Have memory again, all zeros."""
        self.data, self.reservation = _zeros(self.nbytes), reservation
        return self.data

    def drop(self) -> None:
        """Have no memory any more."""
        assert self.reservation is not None
        self.data = None
        self.reservation.release()
        self.reservation = None


class PageStore:
    """The pages of a runtime. What is named `..._locked` is called under `lock`, which is held for moments.

    The lock is never taken together with another one, nor by a `__del__`.
    """

    def __init__(self, budget: MemoryBudget, parking: Parking) -> None:
        self.budget = budget
        self.parking = parking
        self.lock = threading.Lock()
        self.cached = 0  # bytes that nobody uses
        self.shared = 0  # bytes that sharing saves
        most = LARGEST_CACHE if budget.budget is None else budget.budget // 4
        self._most_cached = min(most, LARGEST_CACHE)
        self._unused: dict[Page, None] = {}  # in the order in which they will go
        budget.reclaim = self.reclaim

    def new(self, nbytes: int, grant: Reservation) -> Page:
        """A page of zeros, paid from `grant`."""
        return Page(nbytes, grant.split(nbytes, Kind.PAGES))

    def use_locked(self, page: Page) -> None:
        """One more sequence uses a page."""
        if page.users:
            self.shared += page.nbytes
        else:
            del self._unused[page]
            self.cached -= page.nbytes
            assert page.reservation is not None
            page.reservation.spare(False)
        page.users += 1

    def leave(self, pages: Iterable[Page]) -> None:
        """A sequence does not use these any more, given from the last to the first."""
        with self.lock:
            for page in pages:
                self.leave_locked(page)
            while self.cached > self._most_cached:
                self._drop_oldest_locked()

    def leave_locked(self, page: Page) -> None:
        """One sequence less. What follows a page goes before it, so that a prefix never has a gap."""
        assert page.users > 0, "left more often than used"
        page.users -= 1
        if page.users:
            self.shared -= page.nbytes
        elif page.node is not None:
            self._unused[page] = None
            self.cached += page.nbytes
            assert page.reservation is not None
            page.reservation.spare(True)
        elif page.slot is not None:
            self.parking.free(page.slot)
            page.slot = None
        else:
            page.drop()

    def drop_unused_locked(self, page: Page) -> None:
        """A page that nobody uses, and that is no prefix any more."""
        del self._unused[page]
        self.cached -= page.nbytes
        page.drop()

    def reclaim(self, nbytes: int) -> int:
        """Give up pages that nobody uses, the longest unused first; how many bytes, `nbytes` if there are."""
        freed = 0
        with self.lock:
            while freed < nbytes and self._unused:
                freed += self._drop_oldest_locked()
        return freed

    def _drop_oldest_locked(self) -> int:
        page = next(iter(self._unused))
        assert page.node is not None
        page.node.cut()
        self.drop_unused_locked(page)
        return page.nbytes


def _zeros(nbytes: int) -> mmap.mmap:
    """Mapped for itself, so that it goes back to the system when it is not needed; cleared by the system."""
    try:
        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except AttributeError:  # Windows
        return mmap.mmap(-1, nbytes)
