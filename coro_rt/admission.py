"""How many jobs there may be at once; the most urgent of the tasks that wait for room comes in next."""

from heapq import heappop, heappush
from itertools import count

from coro_rt.hosts import Waiter
from coro_rt.schedulers.qos import QoS


class Ticket:
    """One task's place before the door. `granted`: a place is taken for it; `left`: it waits no longer."""

    __slots__ = ("granted", "left", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.granted = False
        self.left = False


class Admission:
    """Counts the jobs. Everything under the engine's lock."""

    def __init__(self, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._inside = 0
        self._queue: list[tuple[int, float, int, Ticket]] = []
        self._order = count()

    def __str__(self) -> str:
        return f"the runtime was opened with max_jobs={self._max_jobs}"

    def full(self) -> bool:
        """Whether a newcomer would have to wait."""
        return self._inside >= self._max_jobs

    def enter(self) -> None:
        """One more is inside; children come in even when it is full, as they cannot wait."""
        self._inside += 1

    def queue(self, waiter: Waiter, level: QoS, deadline: float) -> Ticket:
        """Stand in line; `waiter` is delivered when a place is taken for it, or when the runtime closes."""
        ticket = Ticket(waiter)
        heappush(self._queue, (-level, deadline, next(self._order), ticket))
        return ticket

    def release(self) -> Waiter | None:
        """A job has ended: its place goes to the next, who is returned, or is free."""
        self._inside -= 1
        while self._queue and not self.full():
            ticket = heappop(self._queue)[3]
            if not ticket.left:
                self._inside += 1
                ticket.granted = True
                return ticket.waiter
        return None

    def leave(self, ticket: Ticket) -> Waiter | None:
        """Its task gave up. Returns like `release`, as the place may have been granted in the meantime."""
        ticket.left = True
        return self.release() if ticket.granted else None

    def close(self) -> list[Waiter]:
        """Nobody comes in any more; returns who waited."""
        waiting = [ticket.waiter for *_, ticket in self._queue if not ticket.left]
        self._queue.clear()
        return waiting
