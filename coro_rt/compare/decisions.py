"""What a decision of the scheduler alone costs, per policy, from 10 to 100,000 ready entries.

No threads and no jobs: the scheduler is called as a worker would call it, in one thread. Two decisions, each
in microseconds of the CPU (the thread's own time, so that neighbours on the machine count less):

- "turn": one `Scheduler.turn`. Slices of a nanosecond make each turn compare everybody and, under policies
  where equals take turns, hand the device over.
- "arrival": somebody of a random level comes, the running one ends, the next is granted: `submit`, `done`,
  `next`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import count
from math import log2
from statistics import linear_regression

from coro_rt.compare.statistics import Figures, Probe
from coro_rt.schedulers import POLICIES, Entry, Policy, QoS, Scheduler

TURN, ARRIVAL = "a decision: turn", "a decision: arrival"
DECISIONS = 4_000  # in one sample
FEWEST = 10  # ready entries


def probes(counts: Sequence[int], decisions: int = DECISIONS) -> list[Probe]:
    """Both decisions under each policy."""
    found = []
    for name, policy in POLICIES.items():
        for ready in counts:
            crowd = _Crowd(policy, ready, decisions)
            found.append(Probe(TURN, name, "µs", crowd.turns, ready))
            found.append(Probe(ARRIVAL, name, "µs", crowd.arrivals, ready))
    return found


def growth(figures: Figures, kind: str, policy: str) -> tuple[float, float] | None:
    """The straight line through a decision's medians by log2 of how many are ready: what it costs with one,
    and more with each doubling, in microseconds. None with fewer than three figures."""
    found = [figure for figure in figures.of(kind) if figure.who == policy and figure.at]
    if len(found) < 3:
        return None
    each, once = linear_regression([log2(figure.at or 1) for figure in found], [one.median for one in found])
    return once, each


class _Crowd:
    """Many ready entries of all levels, and one that runs. Made at the first measurement."""

    def __init__(self, policy: type[Policy], ready: int, decisions: int) -> None:
        self._policy = policy()
        self._policy.slice_s = 1e-9
        self._size, self._decisions = ready, decisions
        self._random = random.Random(ready)
        self._ids = count()
        self._now = 0.0
        self._scheduler: Scheduler | None = None
        self._running: Entry | None = None

    def turns(self) -> float:
        scheduler, entry, now = *self._there(), self._now
        turn = scheduler.turn
        began = time.thread_time()
        for _ in range(self._decisions):
            now += 1e-6
            grant = turn(entry, 1e-6, now)
            if grant is not None:
                entry = grant.entry
        took = time.thread_time() - began
        self._running, self._now = entry, now
        return took / self._decisions * 1e6

    def arrivals(self) -> float:
        scheduler, running = self._there()
        newcomers = [self._entry() for _ in range(self._decisions)]
        began = time.thread_time()
        for entry in newcomers:
            self._now += 1e-6
            scheduler.submit(entry, self._now)
            scheduler.done(running, self._now)
            grant = scheduler.next("cpu", self._now)
            if grant is None:  # all are put off
                self._now = scheduler.resumes_at("cpu")
                grant = scheduler.next("cpu", self._now)
            assert grant is not None
            running = grant.entry
        took = time.thread_time() - began
        self._running = running
        return took / self._decisions * 1e6

    def _there(self) -> tuple[Scheduler, Entry]:
        if self._scheduler is None or self._running is None:
            self._scheduler = Scheduler(self._policy, max_wait_s=1e9)
            for _ in range(self._size + 1):
                self._now += 1e-6
                self._scheduler.submit(self._entry(), self._now)
            grant = self._scheduler.next("cpu", self._now)
            assert grant is not None
            self._running = grant.entry
        return self._scheduler, self._running

    def _entry(self) -> Entry:
        return Entry(
            next(self._ids),
            qos=self._random.choice(tuple(QoS)),
            predicted_seconds_left=self._random.random(),
        )
