"""The memory budget: models and sequences reserve before they allocate, so that the sum is known and bounded.

One idea: a reservation is an object that is given back once, by whoever holds it, from any thread. Giving
back takes no lock, because the garbage collector may do it in the middle of anything: what came back is
counted by the next who looks.
"""

import re
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Self

from coro_rt.errors import MemoryBudgetExceeded

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(size: int | str) -> int:
    """Bytes from a number or a text like "1GiB", "512 MiB" or "2.5GB". Raises ValueError."""
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", size, re.IGNORECASE)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(f"a size looks like 1073741824, '1GiB' or '512MB', not {size!r}")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"a size is a whole number of bytes, zero or more, not {size!r}")
    return size


def format_bytes(nbytes: int) -> str:
    """`nbytes` for people: "98.4 MiB"."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


class Kind(Enum):
    """What memory is held for."""

    WEIGHTS = "weights"
    PAGES = "pages"  # of keys and values
    WORKSPACES = "workspaces"  # buffers of steps
    PARKING = "parking"  # the area of parked pages
    OTHER = "other"  # vocabularies, and what the application reserves


class Reservation:
    """Bytes that are held; `release()` gives them back, once, from any thread. Also a context manager."""

    __slots__ = ("_budget", "_spare", "kind", "nbytes", "what")

    def __init__(self, budget: "MemoryBudget", nbytes: int, what: str, kind: Kind) -> None:
        self._budget: MemoryBudget | None = budget
        self._spare = False
        self.nbytes = nbytes
        self.what = what
        self.kind = kind

    def release(self) -> None:
        """Give the bytes back. Further calls do nothing. `__del__` may call it: no lock is taken."""
        budget = self._budget
        if budget is not None:
            budget._returned.append(self)
            budget.on_release()

    def split(self, nbytes: int, kind: Kind) -> "Reservation":
        """A part of these bytes as a reservation of its own. For who holds this one."""
        assert self._budget is not None
        assert 0 <= nbytes <= self.nbytes, (nbytes, self.nbytes)
        return self._budget._split(self, nbytes, kind)

    def spare(self, spare: bool) -> None:
        """Whether the bytes are only kept in case they are needed again: they do not count as used then."""
        if self._budget is not None:
            self._budget._mark(self, spare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class MemoryBudget:
    """How much may be held at once; `None` is unlimited, and still counted. Thread-safe.

    What is `spare` counts as held but not as used. `reclaim(nbytes)` is called, without a lock, before a
    request is refused: it gives up spare bytes and returns how many. `on_release` is called after bytes have
    come back, perhaps from a `__del__`: it must not wait for anything.
    """

    def __init__(self, budget: int | str | None = None) -> None:
        self.budget = None if budget is None else parse_bytes(budget)
        self.reclaim: Callable[[int], int] = lambda nbytes: 0
        self.on_release: Callable[[], object] = lambda: None
        self._held = dict.fromkeys(Kind, 0)
        self._total = 0  # the sum of these
        self._spare = 0
        self._returned: deque[Reservation] = deque()  # not counted as free yet
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes reserved now, but for the spare ones."""
        with self._lock:
            self._settle()
            return self._total - self._spare

    @property
    def spare(self) -> int:
        """Bytes that are held, and given up as soon as somebody else needs them."""
        return self._spare

    @property
    def free(self) -> int | None:
        """Bytes that a `reserve` would get now; None when unlimited."""
        return None if self.budget is None else self.budget - self.used

    def held(self) -> dict[Kind, int]:
        """Bytes held now, spare ones included, by what they are for."""
        with self._lock:
            self._settle()
            return dict(self._held)

    def reserve(self, nbytes: int | str, what: str, kind: Kind = Kind.OTHER) -> Reservation:
        """Hold `nbytes` for `what`. Raises MemoryBudgetExceeded when they do not fit; never waits."""
        nbytes = parse_bytes(nbytes)
        reservation = self.try_reserve(nbytes, what, kind)
        if reservation is None:
            raise self.exceeded(nbytes, what)
        return reservation

    def try_reserve(self, nbytes: int, what: str, kind: Kind, *, beside: int = 0) -> Reservation | None:
        """Like `reserve`; None when they do not fit, or would not leave `beside` bytes."""
        while True:
            with self._lock:
                self._settle()
                missing = 0 if self.budget is None else self._total + nbytes + beside - self.budget
                if missing <= 0:
                    self._count(kind, nbytes)
                    return Reservation(self, nbytes, what, kind)
            if not self.reclaim(missing):
                return None

    def overdraw(self, nbytes: int, kind: Kind) -> Reservation:
        """Hold bytes even if they do not fit: for the few without which what has begun could not end."""
        with self._lock:
            self._count(kind, nbytes)
        return Reservation(self, nbytes, kind.value, kind)

    def exceeded(self, nbytes: int, what: str) -> MemoryBudgetExceeded:
        """The error for `nbytes` that are not free."""
        assert self.budget is not None
        return MemoryBudgetExceeded(
            f"{what} needs {format_bytes(nbytes)}, but {format_bytes(self.budget - self.used)} of "
            f"the budget of {format_bytes(self.budget)} are free: close what is not needed, or give "
            "open_runtime(memory=...) more"
        )

    def _settle(self) -> None:
        """Under the lock: count what came back."""
        returned = self._returned
        while returned:
            reservation = returned.popleft()
            if reservation._budget is self:
                reservation._budget = None
                self._count(reservation.kind, -reservation.nbytes)
                if reservation._spare:
                    self._spare -= reservation.nbytes

    def _count(self, kind: Kind, nbytes: int) -> None:
        self._held[kind] += nbytes
        self._total += nbytes

    def _split(self, whole: Reservation, nbytes: int, kind: Kind) -> Reservation:
        with self._lock:
            assert not whole._spare
            whole.nbytes -= nbytes
            self._held[whole.kind] -= nbytes
            self._held[kind] += nbytes
        return Reservation(self, nbytes, whole.what, kind)

    def _mark(self, reservation: Reservation, spare: bool) -> None:
        with self._lock:
            if reservation._budget is self and reservation._spare is not spare:
                reservation._spare = spare
                self._spare += reservation.nbytes if spare else -reservation.nbytes
