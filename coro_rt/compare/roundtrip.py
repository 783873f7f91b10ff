"""Host → device → host: a task asks for one short kernel and waits for it, again and again.

Ours is `await runtime.run(job)`, a whole job with its ledger, deadline and cancelling; the peers hand a
function to a thread: `trio.to_thread.run_sync`, `anyio.to_thread.run_sync`, `loop.run_in_executor`. On each
loop all take turns, some hundred asks at a time; a sample is the median ask of one turn. Nobody spins while
waiting: `CPU` is the CPU time of the process per ask.

All of it twice: with the threads where the system places them, and all on one core, which saves them the way
to another one, but keeps the two from running at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import anyio.to_thread
import trio

import coro_rt
from coro_rt.compare.hosts import BACKENDS, one_core, placements, run_on
from coro_rt.compare.statistics import Figures, Noise
from coro_rt.compare.work import spin, spin_kernel, turns

WHAT, CPU = "host → device → host", "host → device → host, CPU time"
KERNEL_S = 10e-6
OURS, ANYIO = "coro_rt", "anyio.to_thread"

Ask = Callable[[], Awaitable[Any]]


def measure(figures: Figures, asks: int, repeat: int, tick: Callable[[str], object], noise: Noise) -> None:
    """A figure for each way on each loop and each `placements` of it, named "way, loop"; µs per ask."""
    for backend in BACKENDS:
        for where in placements(""):
            tick(f"{WHAT}: {backend}{where}")
            with one_core() if where else nullcontext():
                run_on(backend, _on, backend, where, figures, asks, repeat, noise)


async def _on(backend: str, where: str, figures: Figures, asks: int, repeat: int, noise: Noise) -> None:
    length = turns(KERNEL_S)

    async def job() -> int:
        result: int = await spin_kernel(length)
        return result

    # one thread: nobody shares rows in a kernel of some microseconds
    async with coro_rt.open_runtime(threads=1) as runtime:
        ways: dict[str, Ask] = {
            OURS: partial(runtime.run, job),
            ANYIO: partial(anyio.to_thread.run_sync, spin, length),
        }
        if backend == "trio":
            ways["trio.to_thread"] = partial(trio.to_thread.run_sync, spin, length)
        else:
            loop = asyncio.get_running_loop()
            ways["run_in_executor"] = lambda: loop.run_in_executor(None, spin, length)
        for ask in ways.values():
            for _ in range(20):
                await ask()
        for _ in range(repeat):
            noise.look()
            for way, ask in ways.items():
                times, cpu = [], time.process_time()
                for _ in range(asks):
                    began = time.perf_counter()
                    await ask()
                    times.append(time.perf_counter() - began)
                figures.add(WHAT, f"{way}, {backend}{where}", "µs", median(times) * 1e6)
                figures.add(CPU, f"{way}, {backend}{where}", "µs", (time.process_time() - cpu) / asks * 1e6)
