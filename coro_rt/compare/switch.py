"""What a switch costs through the public runtime, ledger and cancel checks on.

Two shapes, N switches in each, `(time with the runtime - time inline) / N`:

- "ready": all jobs are ready all the time, and do nothing but `await coro_rt.checkpoint()`. The policy is the
  default one with slices of a nanosecond, so that each checkpoint puts the job back,
  decides among all that are ready and takes up another.
- "dependent": each job waits for the one before it, in a ring, through `coro_rt.Event`: a wait, a wake and a
  switch.

Time is taken inside one of the jobs, from one of its turns to a later one, so that starting them does not
count. The peers are in `thread_switch` and `loop_switch`; the floor is a bare `coro.send`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import coro_rt
from coro_rt.compare.hosts import run_on
from coro_rt.compare.loop_switch import loop_probes
from coro_rt.compare.statistics import Probe
from coro_rt.compare.thread_switch import thread_probes
from coro_rt.schedulers.dynamic import Dynamic

READY, DEPENDENT = "switch, all ready", "switch, dependent"
OURS, FLOOR = "coro_rt", "a bare coro.send"


def every_checkpoint() -> Dynamic:
    """`dynamic`, but equals take turns at every switch point."""
    policy = Dynamic()
    policy.slice_s = 1e-9
    return policy


def probes(counts: Sequence[int], switches: int) -> list[Probe]:
    """Everybody at each number of jobs. `switches`: how many are in one sample."""
    found = [Probe(READY, FLOOR, "µs", partial(bare_send, switches))]
    for count in counts:
        found.append(Probe(READY, OURS, "µs", partial(_on_trio, _ready, count, switches), count))
        if count <= 10_000:
            found.append(Probe(DEPENDENT, OURS, "µs", partial(_on_trio, _dependent, count, switches), count))
        found += loop_probes(READY, DEPENDENT, count, switches)
        found += thread_probes(READY, DEPENDENT, count, switches)
    return found


def inline_s(turns: int) -> float:
    """The same loop with nothing awaited in it."""
    began = time.perf_counter()
    for _ in range(turns):
        pass
    return time.perf_counter() - began


def _on_trio(shape: Any, jobs: int, switches: int) -> float:
    async def main() -> float:
        # The kernels' threads have nothing to do here.
        async with coro_rt.open_runtime(policy=every_checkpoint(), threads=1) as runtime:
            microseconds: float = await runtime.run(shape, runtime, jobs, max(2, switches // jobs))
            return microseconds

    return run_on("trio", main)


async def _ready(runtime: coro_rt.Runtime, jobs: int, laps: int) -> float:
    """Microseconds per switch of jobs that are all ready."""
    done = coro_rt.Event()
    taken = [0.0]
    ended = False

    async def measured() -> None:
        nonlocal ended
        for _ in range(2):
            await coro_rt.checkpoint()
        switches, began = runtime.stats().switches, time.perf_counter()
        for _ in range(laps):
            await coro_rt.checkpoint()
        took = time.perf_counter() - began - inline_s(laps * jobs)
        taken[0] = took / (runtime.stats().switches - switches) * 1e6
        ended = True
        done.set()

    async def other() -> None:
        while not ended:
            await coro_rt.checkpoint()

    coro_rt.spawn(measured)
    for _ in range(jobs - 1):
        coro_rt.spawn(other)
    await done.wait()
    return taken[0]


async def _dependent(runtime: coro_rt.Runtime, jobs: int, laps: int) -> float:
    """Microseconds per switch of jobs of which each waits for the one before."""
    events = [coro_rt.Event() for _ in range(jobs)]
    moments: list[float] = []

    async def member(at: int) -> None:
        following = (at + 1) % jobs
        for lap in range(laps + 1):
            await events[at].wait()
            events[at] = coro_rt.Event()
            if at == 0 and lap in (0, laps):
                moments.append(time.perf_counter())
            events[following].set()

    members = [coro_rt.spawn(member, at) for at in range(jobs)]
    events[0].set()
    for one in members:
        await one
    return (moments[1] - moments[0] - inline_s(laps * jobs)) / (laps * jobs) * 1e6


def bare_send(switches: int) -> float:
    """Microseconds of `coro.send(None)`: what any runtime of coroutines takes at least."""

    class Point:
        def __await__(self) -> Generator[Any, Any, None]:
            yield self

    async def loop() -> None:
        point = Point()
        while True:
            await point

    coro = loop()
    coro.send(None)
    began = time.perf_counter()
    for _ in range(switches):
        coro.send(None)
    took = time.perf_counter() - began
    coro.close()
    return took / switches * 1e6
