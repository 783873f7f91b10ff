"""The memory budget: models and sequences reserve before they allocate, so that the sum is known and bounded.

One idea: a reservation is an object that is given back once, by whoever holds it, from any thread.
"""

import re
import threading
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


class Reservation:
    """Bytes that are held; `release()` gives them back, once, from any thread. Also a context manager."""

    __slots__ = ("_budget", "nbytes", "what")

    def __init__(self, budget: "MemoryBudget", nbytes: int, what: str) -> None:
        self._budget: MemoryBudget | None = budget
        self.nbytes = nbytes
        self.what = what

    def release(self) -> None:
        """Give the bytes back. Further calls do nothing."""
        budget = self._budget
        if budget is not None:
            budget._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class MemoryBudget:
    """How much may be held at once; `None` is unlimited, and still counted. Thread-safe."""

    def __init__(self, budget: int | str | None = None) -> None:
        self.budget = None if budget is None else parse_bytes(budget)
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self._used

    @property
    def free(self) -> int | None:
        """Bytes left; None when unlimited."""
        return None if self.budget is None else self.budget - self._used

    def reserve(self, nbytes: int, what: str) -> Reservation:
        """Hold `nbytes` for `what`. Raises MemoryBudgetExceeded when they do not fit; never waits."""
        nbytes = parse_bytes(nbytes)
        with self._lock:
            if self.budget is not None and self._used + nbytes > self.budget:
                raise MemoryBudgetExceeded(
                    f"{what} needs {format_bytes(nbytes)}, but {format_bytes(self.budget - self._used)} of "
                    f"the budget of {format_bytes(self.budget)} are free: close what is not needed, or give "
                    "open_runtime(memory=...) more"
                )
            self._used += nbytes
        return Reservation(self, nbytes, what)

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation._budget is self:
                reservation._budget = None
                self._used -= reservation.nbytes
