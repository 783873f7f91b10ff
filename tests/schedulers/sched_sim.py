"""One device in virtual time, driven by the scheduler as a worker drives it: arrivals, quanta, slices."""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf

from coro_rt.schedulers import Entry, Grant, QoS, Scheduler


@dataclass
class Simulation:
    """Jobs are entries with seconds of work, in quanta of `quantum_s`. Keeps the order and every wait."""

    scheduler: Scheduler
    quantum_s: float = 0.001
    now: float = 0.0
    work_s: dict[Entry, float] = field(default_factory=dict)
    waits: list[tuple[Entry, float]] = field(
        default_factory=list
    )  # every time that somebody was ready, how long
    order: list[str] = field(default_factory=list)  # the names granted, one after the other
    ended: list[Entry] = field(default_factory=list)
    running: Entry | None = None
    _waited: dict[Entry, float] = field(default_factory=dict)
    _events: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    _count: "count[int]" = field(default_factory=count)

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Calls something once virtual time has come to `when`, between quanta."""
        heappush(self._events, (when, next(self._count), call))

    def job(
        self,
        work_s: float = inf,
        *,
        at: float = 0.0,
        name: str = "",
        qos: QoS = QoS.DEFAULT,
        tenant: str = "default",
        deadline: float = inf,
    ) -> Entry:
        """A job that arrives at a time and ends after so many seconds of service."""
        entry = Entry(next(self._count), name=name, qos=qos, tenant=tenant, deadline=deadline)
        self.work_s[entry] = work_s
        self.at(at, lambda: self.scheduler.submit(entry, self.now))
        return entry

    def run(self, until: float = inf) -> None:
        """Runs until a time, or until nothing is left to do."""
        scheduler = self.scheduler
        while self.now < until:
            self._arrive()
            entry = self.running
            if entry is None:
                self._take_up(scheduler.next("cpu", self.now))
                if self.running is None:
                    arrival = self._events[0][0] if self._events else inf
                    following = min(arrival, scheduler.resumes_at("cpu"))
                    if following == inf:
                        return
                    self.now = max(self.now, following)
                continue
            step = min(self.quantum_s, self.work_s[entry])
            self.now += step
            self.work_s[entry] -= step
            self._arrive()
            if self.work_s[entry] <= 1e-12:
                scheduler.ran(entry, step, self.now)
                scheduler.done(entry, self.now)
                self.ended.append(entry)
                del self.work_s[entry]
                self.running = None
            else:
                self._take_up(scheduler.turn(entry, step, self.now) or entry.grant)

    def _take_up(self, grant: Grant | None) -> None:
        if grant is not None and grant.entry is not self.running:
            self.running = entry = grant.entry
            self.order.append(entry.name)
            self.waits.append((entry, entry.waited_s - self._waited.get(entry, 0.0)))
            self._waited[entry] = entry.waited_s

    def _arrive(self) -> None:
        while self._events and self._events[0][0] <= self.now + 1e-12:
            heappop(self._events)[2]()


def give_way(scheduler: Scheduler, entry: Entry, now: float) -> None:
    """The running entry goes back among the ready, whatever the policy says of it."""
    scheduler.park(entry, now)
    scheduler.wake(entry, now)
