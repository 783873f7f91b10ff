"""Starting and joining tasks that do nothing, and the memory of those that wait.

Memory is what the process grows by (RSS), counted in a process of its own for each, with all of them waiting
for an event of their own kind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import trio

import coro_rt
from coro_rt.compare.hosts import run_on
from coro_rt.compare.statistics import Probe
from coro_rt.compare.thread_switch import MOST_THREADS, small_stacks

START, MEMORY = "start and join, each", "memory of a waiting task"
OURS, THREADS = "coro_rt", "threads"


def start_probes(tasks: int) -> list[Probe]:
    """Microseconds per task, everything included: made, run, ended, joined."""
    ways: dict[str, Callable[[int], float]] = {
        OURS: _ours, THREADS: _threads, "asyncio": partial(run_on, "asyncio", _asyncio),
        "uvloop": partial(run_on, "uvloop", _asyncio), "trio": partial(run_on, "trio", _trio),
    }  # fmt: skip
    return [Probe(START, who, "µs", partial(_started, start, tasks), tasks) for who, start in ways.items()]


def memory_probes(counts: dict[str, int]) -> list[Probe]:
    """Bytes per waiting task of each kind that `counts` names, and how many there are to be."""
    return [
        Probe(MEMORY, who, "bytes", partial(_in_child, who, count), count) for who, count in counts.items()
    ]


def _started(start: Callable[[int], float], tasks: int) -> float:
    """`start(tasks)`; the garbage collector does not look through what this process has besides."""
    gc.collect()
    gc.freeze()
    try:
        return start(tasks)
    finally:
        gc.unfreeze()


async def _nothing() -> None:
    pass


def _ours(tasks: int) -> float:
    async def job() -> float:
        began = time.perf_counter()
        for child in [coro_rt.spawn(_nothing) for _ in range(tasks)]:
            await child
        return time.perf_counter() - began

    async def main() -> float:
        async with coro_rt.open_runtime(threads=1) as runtime:
            return await runtime.run(job)

    return run_on("trio", main) / tasks * 1e6


def _threads(tasks: int) -> float:
    with small_stacks():
        began = time.perf_counter()
        threads = [threading.Thread(target=int, daemon=True) for _ in range(tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / tasks * 1e6


async def _asyncio(tasks: int) -> float:
    began = time.perf_counter()
    for task in [asyncio.create_task(_nothing()) for _ in range(tasks)]:
        await task
    return (time.perf_counter() - began) / tasks * 1e6


async def _trio(tasks: int) -> float:
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(_nothing)
    return (time.perf_counter() - began) / tasks * 1e6


# Memory: this file is also the program of the child process.


def _in_child(who: str, count: int) -> float:
    # not by its path: the folder of this file would come first, and hide the standard library's `statistics`
    command = [sys.executable, "-m", "coro_rt.compare.starting", who, str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError((ended.stderr.strip().splitlines() or ["the child process died"])[-1])
    grown: float = json.loads(ended.stdout)
    return grown / count


def rss() -> int:
    """Bytes of this process that are in memory. OSError where /proc does not say."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _jobs_wait(count: int) -> int:
    async def many() -> int:
        over = coro_rt.Event()
        children = []

        async def wait() -> None:
            await over.wait()

        # two are there before: what the first of a kind makes is not theirs
        for _ in range(2):
            children.append(coro_rt.spawn(wait))
        await coro_rt.sleep(0.01)
        before = rss()
        for _ in range(count):
            children.append(coro_rt.spawn(wait))
        await coro_rt.sleep(0.1)  # they are as urgent as this one, and reach their wait
        grown = rss() - before
        over.set()
        for child in children:
            await child
        return grown

    async with coro_rt.open_runtime(threads=1, max_jobs=2 * count + 10) as runtime:
        return await runtime.run(many)


async def _asyncio_waits(count: int) -> int:
    over = asyncio.Event()
    before = rss()
    tasks = [asyncio.create_task(over.wait()) for _ in range(count)]
    await asyncio.sleep(0.01)
    grown = rss() - before
    over.set()
    await asyncio.gather(*tasks)
    return grown


async def _trio_waits(count: int) -> int:
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        before = rss()
        for _ in range(count):
            nursery.start_soon(over.wait)
        await anyio.wait_all_tasks_blocked()
        grown = rss() - before
        over.set()
    return grown


def _threads_wait(count: int) -> int:
    over = threading.Event()
    before = rss()
    with small_stacks():
        threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(min(count, MOST_THREADS))]
        try:
            for thread in threads:
                thread.start()
            return rss() - before
        finally:
            over.set()


_CHILDREN: dict[str, Callable[[int], Any]] = {
    OURS: partial(run_on, "trio", _jobs_wait), THREADS: _threads_wait,
    "asyncio": partial(run_on, "asyncio", _asyncio_waits), "trio": partial(run_on, "trio", _trio_waits),
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(_CHILDREN[sys.argv[1]](int(sys.argv[2]))))
