"""How late the host's event loop is while a model generates, and what an idle runtime costs.

A task sleeps 1 ms in a loop and keeps how much later than that it woke; beside it, another iterates one
long generation with all threads. The same task on the same loop, with the runtime open and idle, is the
baseline. Both are measured in turns of a few seconds. Then the probe ends, and the process's CPU time over
several seconds of an open, idle runtime with a loaded model is divided by the wall time.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import anyio
import numpy as np

import coro_rt
from coro_rt.bench.measure import Claim, Report, Row
from coro_rt.bench.prompts import text_ids
from coro_rt.compare.hosts import run_on

from .options import Options

SLEEP_S = 0.001
TURNS = 3


def run(options: Options) -> Report:
    """A row for P50, P99 and the largest lag of each backend; each turn is a sample."""
    report = Report("lag", "lateness of the event loop while a model generates", peer="idle loop")
    for backend in options.backends:
        run_on(backend, _measure, options, backend, report)
    return report


async def _measure(options: Options, backend: str, report: Report) -> None:
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    tokens = 0
    async with (
        coro_rt.open_runtime(threads=max(options.threads)) as runtime,
        await runtime.load_model(options.model) as llm,
    ):
        async for _ in llm.generate([1], max_tokens=16, ignore_eos=True):
            pass
        seconds = options.seconds / TURNS
        began_generating = 0.0
        for _ in range(TURNS):
            idle.append(await probe(seconds))
            async with anyio.create_task_group() as tasks:
                counter = [0]
                tasks.start_soon(partial(_generate, llm, counter))
                await anyio.sleep(0.1)
                began, before = time.perf_counter(), counter[0]
                busy.append(await probe(seconds))
                began_generating += time.perf_counter() - began
                tokens += counter[0] - before
                tasks.cancel_scope.cancel()
        wall, cpu = time.perf_counter(), time.process_time()
        await anyio.sleep(options.seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)

    def milliseconds(turns: list[list[float]], percentile: float) -> list[float]:
        return [float(np.percentile(turn, percentile)) * 1e3 for turn in turns]

    for name, percentile in (("P50", 50), ("P99", 99), ("max", 100)):
        ours, baseline = milliseconds(busy, percentile), milliseconds(idle, percentile)
        report.rows.append(Row(f"{backend}: {name} lag", "ms", ours, baseline, less_is_better=True))
    every = [lag for turn in busy for lag in turn]
    p99 = float(np.percentile(every, 99)) * 1e3
    report.claims += [
        Claim(f"{backend}: P99 lag while generating", p99, 10.0, at_least=False, unit="ms"),
        Claim(f"{backend}: CPU of an idle runtime, of one core", 100 * share, 1.0, at_least=False, unit="%"),
    ]
    report.notes.append(
        f"{backend}: {len(every)} wake-ups beside {tokens / began_generating:.0f} generated tokens/s"
    )
    report.details[backend] = {
        "idle_loop_lag_s": idle, "generating_lag_s": busy, "tokens_per_s": tokens / began_generating,
        "idle_cpu_share": share,
    }  # fmt: skip


async def probe(seconds: float) -> list[float]:
    """Sleep 1 ms in a loop; how late each wake-up was, in seconds."""
    lags = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await anyio.sleep(SLEEP_S)
        lags.append(time.perf_counter() - before - SLEEP_S)
    return lags


async def _generate(llm: Any, counter: list[int]) -> None:
    seed = 0
    while True:
        async with llm.generate(text_ids(llm, 64, seed), max_tokens=400, ignore_eos=True) as stream:
            async for _ in stream:
                counter[0] += 1
        seed += 1
