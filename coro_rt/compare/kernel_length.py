"""How long a kernel must be to be worth dispatching.

A task has many kernels of one length run, one after the other, and waits for each before it asks for the
next. The overhead is `(time with the runtime - time inline) / N`, in percent of the kernel. "a job" chains
them with `await`, as a model's author does; the others cross to another thread and back for each: a task that
asks the runtime for each alone, and a thread pool whose result is waited for. Break-even is the length at
which the overhead is `WORTH` of the kernel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import coro_rt
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Figures, Noise
from coro_rt.compare.work import spin, spin_kernel, turns

WHAT, BREAK_EVEN = "overhead per kernel", "break-even length"
JOB, ASKED, POOL = "a job that chains them", "asked for one by one", "thread pool, result()"
WORTH = 0.05


def measure(figures: Figures, lengths_s: Sequence[float], repeat: int, noise: Noise) -> None:
    """Percent of the kernel, by its length in µs; and what a dispatch costs in µs, at the shortest."""
    run_on("asyncio", _measure, figures, lengths_s, repeat, noise)


async def _measure(figures: Figures, lengths_s: Sequence[float], repeat: int, noise: Noise) -> None:
    async def chained(count: int, length: int) -> None:
        for _ in range(count):
            await spin_kernel(length)

    async def one(length: int) -> None:
        await spin_kernel(length)

    async with coro_rt.open_runtime(threads=1) as runtime:
        with ThreadPoolExecutor(1) as pool:
            for seconds in lengths_s:
                length = turns(seconds)
                count = max(10, min(500, round(0.02 / seconds)))
                for _ in range(repeat):
                    noise.look()
                    began = time.perf_counter()
                    for _ in range(count):
                        spin(length)
                    inline = time.perf_counter() - began

                    began = time.perf_counter()
                    await runtime.run(chained, count, length)
                    job = time.perf_counter() - began

                    began = time.perf_counter()
                    for _ in range(count):
                        await runtime.run(one, length)
                    asked = time.perf_counter() - began

                    began = time.perf_counter()
                    for _ in range(count):
                        pool.submit(spin, length).result()
                    pooled = time.perf_counter() - began

                    for who, took in ((JOB, job), (ASKED, asked), (POOL, pooled)):
                        figures.add(WHAT, who, "%", 100 * (took - inline) / inline, seconds * 1e6)
                    await asyncio.sleep(0)
    for who in (JOB, ASKED, POOL):
        figures.add(BREAK_EVEN, who, "µs", _break_even(figures, who, lengths_s))


def _break_even(figures: Figures, who: str, lengths_s: Sequence[float]) -> float:
    """The overhead is about the same time whatever the length: the median of those times, by `WORTH`."""
    costs = []
    for seconds in lengths_s:
        share = figures.median(WHAT, who, seconds * 1e6)
        assert share is not None
        costs.append(max(0.0, share) / 100 * seconds * 1e6)
    return sorted(costs)[len(costs) // 2] / WORTH
