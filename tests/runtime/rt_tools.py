"""What the runtime's tests share: a runtime that must be clean when it closes, jobs, and ways to wait."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import coro_rt
from coro_rt import Job, JobHandle, Runtime, Stream
from coro_rt.schedulers import Outcome
from coro_rt.schedulers.entry import State
from coro_rt.testing import VirtualClock


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Runtime]:
    """A runtime; when it has closed, nothing of its jobs may be left in it."""
    async with coro_rt.open_runtime(**options) as runtime:
        yield runtime
    engine = runtime._engine
    assert not engine.jobs
    assert len(engine.scheduler) == 0
    assert engine.admission._inside == 0
    for worker in engine.workers.values():
        assert worker.job is None
        assert not worker.failure
        assert all(sleep.job is None for _, _, sleep in worker.sleepers._heap)


@asynccontextmanager
async def simulated(**options: Any) -> AsyncIterator[tuple[Runtime, VirtualClock]]:
    """A runtime with the device "sim" in virtual time."""
    clock = VirtualClock()
    async with opened(**{"devices": ["sim"], "clock": clock, **options}) as runtime:
        yield runtime, clock


PATIENCE_S = 300
"""How long a test waits for what has to come: it may be compiled first, on a machine that others use."""


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (tests look at what nobody sets an event for)
            await anyio.sleep(0.0005)


async def until_state(job: Job[Any] | JobHandle[Any] | Stream[Any], state: State) -> None:
    """Wait until a job is in a state."""
    found = job if isinstance(job, Job) else job.job
    assert found is not None
    await until(lambda: found.state is state)


class Gate:
    """Holds a worker inside a kernel: nothing else is served on the CPU until `open()`."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.reached = threading.Event()
        self.kernel: coro_rt.Kernel[[], None] = coro_rt.kernel(self._wait)

    def _wait(self) -> None:
        self.reached.set()
        assert self._open.wait(PATIENCE_S)

    def open(self) -> None:
        self._open.set()

    async def job(self) -> None:
        """A job that keeps the worker busy."""
        await self.kernel()

    async def closed(self) -> None:
        """Wait until the worker is held."""
        await until(self.reached.is_set)


@coro_rt.kernel
def add(a: int, b: int) -> int:
    """A kernel that returns something."""
    return a + b


async def forever(log: list[str] | None = None) -> None:
    """A job that is always ready or running, until cancelled."""
    try:
        while True:
            await coro_rt.checkpoint()
    finally:
        if log is not None:
            log.append("clean")


def check_waits(outcome: Outcome, recorded: Outcome, *, medians: bool = True) -> None:
    """On each level as many jobs waited, for as long within 15 %."""
    assert list(outcome.waiting_s) == list(recorded.waiting_s)
    for qos, was in recorded.waiting_s.items():
        now = outcome.waiting_s[qos]
        assert now.jobs == was.jobs
        if medians:
            assert now.median == pytest.approx(was.median, rel=0.15, abs=0.0002), qos
        assert now.mean == pytest.approx(was.mean, rel=0.15, abs=0.0002), qos
