"""The host's side of a job: a task asks for it, waits for its end, and gets what came of it.

Structured: a task that is cancelled while it waits goes on only when its job has ended, however often it is
cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from coro_rt.errors import Cancelled, JobCancelled, RuntimeClosed
from coro_rt.hosts import Interrupt, Waiter, protected
from coro_rt.job import CancelReason, Job
from coro_rt.ledger import Ledger
from coro_rt.schedulers.entry import State
from coro_rt.schedulers.qos import QoS

if TYPE_CHECKING:
    from coro_rt.engine import Engine

T = TypeVar("T")


@protected
async def outcome(engine: Engine, job: Job[T], waiter: Waiter | None = None) -> T:
    """Wait for a job; its value, or its exception. If the task is cancelled, so is the job.

    `waiter`: one that the job was submitted with, and that nobody has waited for.
    """
    host = engine.host
    interrupted: Interrupt | None = None
    awaited = waiter is not None
    if waiter is None:
        waiter = Waiter(host)
        awaited = engine.watch(job, waiter)
    if awaited:
        interrupted = await host.wait(waiter, partial(engine.cancel_for_task, job))
    if interrupted is not None:
        lost = job.error is None and not host.level_triggered  # a result must not swallow a cancel for good
        if lost or isinstance(job.error, Cancelled):
            interrupted()
    try:
        return collect(job)
    finally:
        del job  # the exception knows this frame; were the job in it, they would keep each other


@protected
async def ended(engine: Engine, job: Job[Any]) -> Interrupt | None:
    """Cancel a job and wait for its end. Returns what cancelled the task meanwhile."""
    waiter = Waiter(engine.host)
    engine.cancel(job, CancelReason.SCOPE)
    if not engine.watch(job, waiter):
        return None
    return await engine.host.wait(waiter, lambda: False)


def collect(job: Job[T]) -> T:
    """What came of an ended job: its value, or its exception raised."""
    error = job.error
    if error is None:
        value: T = job.value
        return value
    if isinstance(error, Cancelled):
        if job.cancelled is CancelReason.CLOSED:
            raise RuntimeClosed(f"the runtime was closed while {job.name} ran")
        reason = CancelReason.HAND if job.cancelled is None else job.cancelled
        raise JobCancelled(f"{job.name} has no result: {reason.value}")
    try:
        raise error
    finally:
        del error, job  # see outcome()


class JobHandle(Generic[T]):
    """What `Runtime.start` gives: `async with` submits the job; leaving the block cancels it, if unfinished,
    and waits.

    An exception that ended the job and that nobody got from `result()` is raised when the block is left,
    unless the block raises one itself.
    """

    def __init__(self, start: Callable[[], Awaitable[Job[T]]]) -> None:
        self._start = start
        self._job: Job[T] | None = None
        self._retrieved = False

    @property
    def job(self) -> Job[T]:
        """The job itself. Raises RuntimeError before the block is entered."""
        if self._job is None:
            raise RuntimeError("this job has not been started: `async with runtime.start(...) as job:` does")
        return self._job

    @property
    def state(self) -> State:
        """NEW, READY, RUNNING, WAITING or DONE."""
        return State.NEW if self._job is None else self._job.state

    @property
    def ledger(self) -> Ledger:
        """What it and its children have used so far."""
        return self.job.ledger

    def cancel(self) -> None:
        """Have it end soon; returns at once. `result()` then raises JobCancelled. From any thread."""
        self.job.cancel()

    def set_qos(self, level: QoS | None = None, *, within_s: float | None = None) -> None:
        """Change how urgent it is, while it waits or runs. From any thread."""
        self.job.set_qos(level, within_s=within_s)

    async def result(self) -> T:
        """Wait for its end: its value, or its exception. If this task is cancelled, so is the job."""
        job = self.job
        job.engine.host.check()
        self._retrieved = True
        return await outcome(job.engine, job)

    @protected
    async def __aenter__(self) -> Self:
        if self._job is not None:
            raise RuntimeError("this job has been started already: call runtime.start again")
        self._job = await self._start()
        return self

    @protected
    async def __aexit__(self, exc_type: object, exc: BaseException | None, _: object) -> None:
        job = self.job
        interrupted = await ended(job.engine, job)
        if interrupted is not None:
            interrupted()
        failed = job.error is not None and not isinstance(job.error, Cancelled)
        if failed and exc is None and not self._retrieved:
            collect(job)
