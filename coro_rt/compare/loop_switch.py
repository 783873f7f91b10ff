"""The same switches on bare event loops: asyncio, uvloop and trio. They have no priorities and no ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from coro_rt.compare.hosts import BACKENDS, run_on
from coro_rt.compare.statistics import Probe

Waiting = tuple[
    Callable[[int], Awaitable[None]], Callable[[int], None]
]  # wait for one's turn; give another his


def loop_probes(ready: str, dependent: str, jobs: int, switches: int) -> list[Probe]:
    """Both shapes on each loop."""
    laps = max(2, switches // jobs)
    found = []
    for backend in BACKENDS:
        found.append(Probe(ready, backend, "µs", partial(run_on, backend, _ready, backend, jobs, laps), jobs))
        if jobs <= 10_000:
            measure = partial(run_on, backend, _dependent, backend, jobs, laps)
            found.append(Probe(dependent, backend, "µs", measure, jobs))
    return found


async def _ready(backend: str, jobs: int, laps: int) -> float:
    give_way = trio.lowlevel.checkpoint if backend == "trio" else partial(asyncio.sleep, 0)
    taken = [0.0]
    ended = False

    async def measured() -> None:
        nonlocal ended
        for _ in range(2):
            await give_way()
        began = time.perf_counter()
        for _ in range(laps):
            await give_way()
        taken[0] = (time.perf_counter() - began) / (laps * jobs) * 1e6
        ended = True

    async def other() -> None:
        while not ended:
            await give_way()

    await _together(backend, [measured, *[other] * (jobs - 1)])
    return taken[0]


async def _dependent(backend: str, jobs: int, laps: int) -> float:
    wait, give = _trio_events(jobs) if backend == "trio" else _asyncio_events(jobs)
    moments: list[float] = []

    async def member(at: int) -> None:
        following = (at + 1) % jobs
        for lap in range(laps + 1):
            await wait(at)
            if at == 0 and lap in (0, laps):
                moments.append(time.perf_counter())
            give(following)

    give(0)
    await _together(backend, [partial(member, at) for at in range(jobs)])
    return (moments[1] - moments[0]) / (laps * jobs) * 1e6


def _trio_events(jobs: int) -> Waiting:
    events = [trio.Event() for _ in range(jobs)]

    async def wait(at: int) -> None:
        await events[at].wait()
        events[at] = trio.Event()

    return wait, lambda at: events[at].set()


def _asyncio_events(jobs: int) -> Waiting:
    events = [asyncio.Event() for _ in range(jobs)]

    async def wait(at: int) -> None:
        await events[at].wait()
        events[at].clear()

    return wait, lambda at: events[at].set()


async def _together(backend: str, tasks: list[Callable[[], Awaitable[None]]]) -> None:
    if backend == "trio":
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
    else:
        await asyncio.gather(*(task() for task in tasks))
