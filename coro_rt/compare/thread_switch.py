"""The same switches between threads: a ring in which each waits for the one before, and a pool.

A thread for each task, each with a `threading.Event` or a bare `threading.Lock` of its own. Once as the
system places them, once all on one core, which saves them the way to another core: the better one counts. The
pool is `ThreadPoolExecutor` as people write it: the tasks that are ready are submitted together, or each
submits the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from coro_rt.compare.hosts import CAN_PIN, PINNED, one_core
from coro_rt.compare.statistics import Probe
from coro_rt.devices.cpu import usable_cpus

MOST_THREADS = 10_000
HAND_OFFS = 20_000  # at most, in one sample: they are slow
EVENT, LOCK, POOL = "threads, Event", "threads, Lock", "thread pool"
STACK = 128 * 1024


def thread_probes(ready: str, dependent: str, jobs: int, switches: int) -> list[Probe]:
    """The rings and the pool; nothing for more threads than anybody has."""
    if jobs > MOST_THREADS:
        return []
    laps = max(1, min(switches, HAND_OFFS) // jobs)
    found = []
    for who, ring in ((EVENT, event_ring), (LOCK, lock_ring)):
        found.append(Probe(dependent, who, "µs", partial(ring, jobs, laps), jobs))
        if CAN_PIN:
            found.append(Probe(dependent, who + PINNED, "µs", partial(_on_one_core, ring, jobs, laps), jobs))
    found.append(Probe(ready, POOL, "µs", partial(pool_ready, jobs, laps), jobs))
    if jobs == 2:  # the same whatever the number: one is ready, the others are not there yet
        found.append(Probe(dependent, POOL, "µs", partial(pool_dependent, min(switches, HAND_OFFS)), jobs))
    return found


def event_ring(threads: int, laps: int) -> float:
    """Microseconds per hand-off through `threading.Event`."""
    events = [threading.Event() for _ in range(threads)]

    def wait(at: int) -> None:
        events[at].wait()
        events[at].clear()

    return _ring(threads, laps, wait, lambda at: events[at].set())


def lock_ring(threads: int, laps: int) -> float:
    """Microseconds per hand-off through `threading.Lock`."""
    locks = [threading.Lock() for _ in range(threads)]
    for lock in locks:
        lock.acquire()
    return _ring(threads, laps, lambda at: locks[at].acquire(), lambda at: locks[at].release())


def _on_one_core(ring: Callable[[int, int], float], threads: int, laps: int) -> float:
    with one_core():
        return ring(threads, laps)


def _ring(threads: int, laps: int, wait: Callable[[int], object], wake: Callable[[int], object]) -> float:
    times: list[float] = []

    def member(at: int) -> None:
        following = (at + 1) % threads
        for lap in range(laps + 1):
            wait(at)
            if at == 0 and lap in (0, laps):
                times.append(time.perf_counter())
            wake(following)

    members: list[threading.Thread] = []
    try:
        with small_stacks():
            for at in range(threads):
                thread = threading.Thread(target=member, args=(at,), daemon=True)
                thread.start()
                members.append(thread)
    except RuntimeError:  # no more threads here; those that did start are let through
        while any(thread.is_alive() for thread in members):
            for at in range(len(members)):
                wake_if_possible(wake, at)
            time.sleep(0)
        raise
    wake(0)
    for thread in members:
        thread.join()
    return (times[1] - times[0]) / (laps * threads) * 1e6


def wake_if_possible(wake: Callable[[int], object], at: int) -> None:
    """A lock that is open already cannot be opened."""
    with suppress(RuntimeError):
        wake(at)


@contextmanager
def small_stacks() -> Iterator[None]:
    """Threads that are started inside get small stacks, or thousands would not fit."""
    before = threading.stack_size(STACK)
    try:
        yield
    finally:
        threading.stack_size(before)


def _nothing() -> None:
    pass


def pool_ready(tasks: int, laps: int) -> float:
    """Microseconds per task that does nothing, submitted so many at a time."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        pool.submit(_nothing).result()
        began = time.perf_counter()
        for _ in range(laps):
            for future in [pool.submit(_nothing) for _ in range(tasks)]:
                future.result()
        return (time.perf_counter() - began) / (laps * tasks) * 1e6


def pool_dependent(tasks: int) -> float:
    """Microseconds per task where each submits the next."""
    last: Future[None] = Future()

    def task(left: int) -> None:
        if left:
            pool.submit(task, left - 1)
        else:
            last.set_result(None)

    with ThreadPoolExecutor(usable_cpus()) as pool:
        pool.submit(_nothing).result()
        began = time.perf_counter()
        pool.submit(task, tasks)
        last.result()
        return (time.perf_counter() - began) / tasks * 1e6
