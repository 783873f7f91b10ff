"""What it costs to be watched: jobs that chain kernels, not watched, and with a trace of everything."""

from __future__ import annotations

import os
import time
from functools import partial

import coro_rt
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Probe
from coro_rt.compare.work import spin_kernel, turns

WHAT = "a kernel of 100 µs, and what is around it"
OFF, ON = "not watched", "traced"
KERNEL_S = 100e-6
JOBS = 4


def probes(kernels: int) -> list[Probe]:
    """Microseconds per kernel of jobs that take turns after each."""
    return [Probe(WHAT, who, "µs", partial(run_on, "trio", _measure, who, kernels)) for who in (OFF, ON)]


async def _measure(who: str, kernels: int) -> float:
    length = turns(KERNEL_S)

    async def chain() -> None:
        for _ in range(kernels):
            await spin_kernel(length)

    async def together() -> float:
        began = time.perf_counter()
        for child in [coro_rt.spawn(chain) for _ in range(JOBS)]:
            await child
        return time.perf_counter() - began

    instruments = [coro_rt.TraceEvents(os.devnull)] if who == ON else []
    async with coro_rt.open_runtime(threads=1, instruments=instruments) as runtime:
        return await runtime.run(together) / (kernels * JOBS) * 1e6
