"""What a decision of the scheduler alone costs, per policy, from 100 to 100,000 ready entries.

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
from itertools import count
from statistics import median

from coro_rt.bench.measure import Claim, Report, Row
from coro_rt.schedulers import POLICIES, Entry, Policy, QoS, Scheduler

from .options import Options

COUNTS = (100, 1_000, 10_000, 100_000)
DECISIONS = 4_000  # in one measurement


def run(options: Options) -> Report:
    """Rows for each policy, kind of decision and number of ready entries."""
    report = Report(
        "decisions", "a decision of the scheduler alone, by policy and ready entries", peer="none"
    )
    medians: dict[tuple[str, str, int], float] = {}
    for name, policy in POLICIES.items():
        for ready in COUNTS:
            samples: dict[str, list[float]] = {"turn": [], "arrival": []}
            crowd = _Crowd(policy, ready)
            for _ in range(options.repeat):
                samples["turn"].append(crowd.turns())
                samples["arrival"].append(crowd.arrivals())
            for kind, values in samples.items():
                report.rows.append(Row(f"{name}, {kind}, {ready:,} ready", "µs", values))
                medians[name, kind, ready] = median(values)
    for kind, bound in (("turn", 1.5), ("arrival", 6.0)):
        cost = medians["dynamic", kind, 1_000]
        report.claims.append(Claim(f"dynamic, {kind}, 1,000 ready", cost, bound, at_least=False, unit="µs"))
    for name in POLICIES:
        for kind in ("turn", "arrival"):
            growth = medians[name, kind, 100_000] / medians[name, kind, 1_000]
            report.claims.append(
                Claim(f"{name}, {kind}: 100,000 ready by 1,000", growth, 3.0, at_least=False, unit="times")
            )
    return report


class _Crowd:
    """Many ready entries of all levels, and one that runs."""

    def __init__(self, policy: type[Policy], ready: int) -> None:
        eager = type(policy.__name__, (policy,), {"name": policy.name, "slice_s": 1e-9})
        self.scheduler = Scheduler(eager, max_wait_s=1e9)
        self.random = random.Random(ready)
        self.ids = count()
        self.now = 0.0
        for _ in range(ready + 1):
            self.submit()
        grant = self.scheduler.next("cpu", self.now)
        assert grant is not None
        self.running = grant.entry

    def submit(self) -> None:
        self.now += 1e-6
        entry = Entry(
            next(self.ids),
            qos=self.random.choice(tuple(QoS)),
            predicted_seconds_left=self.random.random(),
        )
        self.scheduler.submit(entry, self.now)

    def turns(self) -> float:
        turn, entry, now = self.scheduler.turn, self.running, self.now
        began = time.thread_time()
        for _ in range(DECISIONS):
            now += 1e-6
            grant = turn(entry, 1e-6, now)
            if grant is not None:
                entry = grant.entry
        took = time.thread_time() - began
        self.running, self.now = entry, now
        return took / DECISIONS * 1e6

    def arrivals(self) -> float:
        scheduler = self.scheduler
        newcomers = [Entry(next(self.ids), qos=self.random.choice(tuple(QoS))) for _ in range(DECISIONS)]
        began = time.thread_time()
        for entry in newcomers:
            self.now += 1e-6
            scheduler.submit(entry, self.now)
            scheduler.done(self.running, self.now)
            grant = scheduler.next("cpu", self.now)
            assert grant is not None
            self.running = grant.entry
        return (time.thread_time() - began) / DECISIONS * 1e6
