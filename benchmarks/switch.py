"""What a switch between ready jobs costs, through the public runtime, beside a thread for each task.

N jobs do nothing but `await coro_rt.checkpoint()`, so all are ready all the time. The policy is the default
one with slices of a nanosecond (a subclass of one line), so that each checkpoint puts the job back, decides
among all ready jobs and takes up another: the whole path of a switch, Python's own step of the coroutine
included. Time is taken inside one of the jobs, from one of its turns to a later one, by the switches that
`Runtime.stats()` counted meanwhile. With the slice of the default policy, 2 ms, the same jobs pass most
checkpoints without a switch: the row "checkpoint".

Beside it N threads in a ring hand one turn on, each with a `threading.Event` of its own, and with a
`threading.Lock` of its own. Interleaved; microseconds per switch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import coro_rt
from coro_rt.bench.measure import Claim, Report, Row
from coro_rt.schedulers.dynamic import Dynamic

from .hosts import run_on
from .options import Options

COUNTS = (2, 100, 1_000, 10_000, 100_000)
THREADS = 10_000  # no more of them
SWITCHES = 40_000  # in one measurement
HAND_OFFS = 20_000


class EveryCheckpoint(Dynamic):
    """`dynamic`, but equals take turns at every switch point."""

    slice_s = 1e-9


def run(options: Options) -> Report:
    """Rows for each number of jobs, beside both kinds of threads."""
    report = Report("switch", "a switch between ready jobs, beside a thread per task", peer="threads")
    costs: dict[int, float] = {}
    for jobs in COUNTS:
        ours: list[float] = []
        unswitched: list[float] = []
        peers: dict[str, list[float]] = {"Event": [], "Lock": []}
        for _ in range(options.repeat):
            ours.append(run_on(options.backends[0], _switches, EveryCheckpoint(), jobs))
            unswitched.append(run_on(options.backends[0], _switches, "dynamic", jobs))
            for name, ring in (("Event", event_ring), ("Lock", lock_ring)) if jobs <= THREADS else ():
                try:
                    peers[name].append(ring(jobs))
                except RuntimeError as error:  # "can't start new thread"
                    note = f"no {jobs} threads here: {error}"
                    if note not in report.notes:
                        report.notes.append(note)
        costs[jobs] = median(ours)
        for name, samples in peers.items():
            what = f"{jobs} ready, beside {name}"
            report.rows.append(Row(what, "µs/switch", list(ours), samples, less_is_better=True))
        report.rows.append(Row(f"{jobs} ready, checkpoint, default policy", "µs", unswitched))
        if jobs == 1_000:
            row = report.rows[-3]
            if row.ratio is not None:
                less = 100 * (1 - 1 / row.ratio)
                report.claims.append(
                    Claim("1,000 ready: less than Event", less, 80.0, at_least=True, unit="%")
                )
            report.claims.append(Claim("1,000 ready: a switch", costs[jobs], 2.5, at_least=False, unit="µs"))
    growth = costs[100_000] / costs[1_000]
    report.claims.append(Claim("a switch, 100,000 ready by 1,000", growth, 3.0, at_least=False, unit="times"))
    floor = [_bare() for _ in range(options.repeat)]
    report.rows.append(Row("floor: a bare coroutine.send", "µs", floor))
    return report


async def _switches(policy: Any, jobs: int) -> float:
    """Microseconds per switch; per checkpoint where the policy does not switch at each."""
    async with coro_rt.open_runtime(policy=policy, threads=1) as runtime:
        return await runtime.run(_crowd, runtime, jobs)


async def _crowd(runtime: coro_rt.Runtime, jobs: int) -> float:
    done = coro_rt.Event()
    laps = max(2, SWITCHES // jobs)
    taken: list[float] = []
    passed = [0]
    ended = False

    async def measured() -> None:
        nonlocal ended
        for _ in range(2):
            await coro_rt.checkpoint()
        switches, before, began = runtime.stats().switches, passed[0], time.perf_counter()
        for _ in range(laps):
            passed[0] += 1
            await coro_rt.checkpoint()
        took = time.perf_counter() - began
        switched, checkpoints = runtime.stats().switches - switches, passed[0] - before
        taken.append(took / (switched if switched > 0.9 * checkpoints else checkpoints) * 1e6)
        ended = True
        done.set()

    async def other() -> None:
        while not ended:
            passed[0] += 1
            await coro_rt.checkpoint()

    coro_rt.spawn(measured)
    for _ in range(jobs - 1):
        coro_rt.spawn(other)
    await done.wait()
    return taken[0]


def event_ring(threads: int) -> float:
    """Microseconds per hand-off through `threading.Event`."""
    events = [threading.Event() for _ in range(threads)]

    def wait(at: int) -> None:
        events[at].wait()
        events[at].clear()

    return _ring(threads, wait, lambda at: events[at].set())


def lock_ring(threads: int) -> float:
    """Microseconds per hand-off through `threading.Lock`."""
    locks = [threading.Lock() for _ in range(threads)]
    for lock in locks:
        lock.acquire()
    return _ring(threads, lambda at: locks[at].acquire(), lambda at: locks[at].release())


def _ring(threads: int, wait: Callable[[int], object], wake: Callable[[int], object]) -> float:
    laps = max(2, HAND_OFFS // threads)
    times: list[float] = []

    def member(at: int) -> None:
        following = (at + 1) % threads
        for lap in range(laps + 1):
            wait(at)
            if at == 0 and lap in (0, laps):
                times.append(time.perf_counter())
            wake(following)

    before = threading.stack_size(128 * 1024)
    members = []
    try:
        for at in range(threads):
            thread = threading.Thread(target=member, args=(at,), daemon=True)
            thread.start()
            members.append(thread)
        wake(0)
        for thread in members:
            thread.join()
    except RuntimeError:
        if len(members) < threads:  # those that did start are let through
            for _ in range(laps + 1):
                for at in range(len(members)):
                    wake(at)
                    time.sleep(0)
        raise
    finally:
        threading.stack_size(before)
    return (times[1] - times[0]) / (laps * threads) * 1e6


def _bare() -> float:
    class Point:
        def __await__(self) -> Any:
            yield self

    async def loop() -> None:
        point = Point()
        while True:
            await point

    coro = loop()
    coro.send(None)
    began = time.perf_counter()
    for _ in range(SWITCHES):
        coro.send(None)
    took = time.perf_counter() - began
    coro.close()
    return took / SWITCHES * 1e6
