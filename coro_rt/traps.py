"""The functions that jobs call, and what they await then. In a worker's thread."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coro_rt.errors import DeviceError
from coro_rt.job import Job, JobEntry, function_name, inherit_urgency, make_coroutine
from coro_rt.schedulers.entry import Entry
from coro_rt.trap import Trap, local, outside_a_job

if TYPE_CHECKING:
    pass

T = TypeVar("T")


def loosen(job: Job[Any], on: Entry) -> None:
    """Under the lock, before `job` waits for `on`: if that closes a circle, a soft wait in it lets go."""
    soft: Entry | None = None
    link: Entry | None = on
    while link is not None and link is not job.entry:
        trap = cast(JobEntry, link).job.trap
        if trap is not None and trap.soft:
            soft = link
        link = link.waits_on
    if link is not None and soft is not None:
        waiting = cast(JobEntry, soft).job
        assert waiting.trap is not None
        job.engine.scheduler.park(soft, job.engine.clock(), on=None)
        waiting.trap.let_go()


def current_job() -> Job[Any]:
    """The job that calls this. Raises WrongContext outside jobs."""
    worker = local.worker
    if worker is None or worker.job is None:
        raise outside_a_job("current_job()")
    return worker.job


class Checkpoint(Trap):
    """Nothing to wait for, only a point to switch at."""

    __slots__ = ()

    def arrive(self, job: Job[Any]) -> bool:
        return True


CHECKPOINT = Checkpoint()


def checkpoint() -> Awaitable[None]:
    """`await checkpoint()`: a point where the worker may switch to another job, and where Cancelled is
    raised."""
    return CHECKPOINT


class Sleep(Trap):
    """Until a time on the runtime's clock. Its worker keeps it in a heap; undone, it stays there as a dead
    item."""

    __slots__ = ("job", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.job: Job[Any] | None = None  # None: not registered, or undone

    def what(self) -> str:
        return f"the end of sleep({self.seconds:g})"

    def arrive(self, job: Job[Any]) -> bool:
        if self.seconds <= 0:
            return True
        self.job = job
        job.worker.sleepers.add(self, job.engine.clock() + self.seconds)
        return False

    def leave(self, job: Job[Any]) -> bool:
        self.job = None
        job.worker.sleepers.forget()
        return True


def sleep(seconds: float) -> Awaitable[None]:
    """`await sleep(s)`: let others run for `seconds` of the runtime's clock; `inf` sleeps until cancelled."""
    if math.isnan(seconds):
        raise ValueError("sleep() takes a number of seconds, not NaN")
    return Sleep(seconds)


class Move(Trap):
    """To another device: the job leaves its worker as if it waited, and is made ready on the other one."""

    __slots__ = ("device", "job")

    def __init__(self, device: str) -> None:
        self.device = device
        self.job: Job[Any] | None = None

    def what(self) -> str:
        return f"the device {self.device!r}"

    def arrive(self, job: Job[Any]) -> bool:
        engine = job.engine
        worker = engine.workers.get(self.device)
        if worker is job.worker:
            self.arrived(job)
            return True
        if worker is None:
            opened = ", ".join(engine.workers)
            job.inbox_error = DeviceError(f"no device {self.device!r} is open, only {opened}")
            return True
        self.job = job
        engine.after(self._go)  # once it is parked
        return False

    def arrived(self, job: Job[Any]) -> None:
        """Under the lock: it goes on there, and stays unless it says otherwise."""
        job.home = self.device

    def turned_away(self, job: Job[Any]) -> bool:
        """Under the lock: the device has failed meanwhile. True: it is to another one."""
        return False

    def leave(self, job: Job[Any]) -> bool:
        return True  # and `_go` finds that it is not waited for any more

    def _go(self) -> None:
        job = self.job
        assert job is not None
        engine = job.engine
        job.worker.read_energy()  # it is its thread that has parked the job
        with engine.deciding:
            if job.trap is not self:  # cancelled meanwhile, or taken along by its device
                return
            worker = engine.workers[self.device]
            if worker.fence is not None and self.turned_away(job):
                worker = engine.workers[self.device]
            error: DeviceError | None = None
            if worker.fence is not None:
                error = worker.fence.error()
            elif worker.failure is None:
                engine.scheduler.move(job.entry, worker.name, engine.clock())
                job.worker.leaves(job)
                job.worker = worker
                self.arrived(job)
            else:
                error = DeviceError(f"device {worker.name!r} has failed: {worker.failure!r}")
                error.__cause__ = worker.failure
            engine.wake_locked(job, error=error)


def move_to(device: str) -> Awaitable[None]:
    """`await move_to("npu")`: go on, on another of the runtime's devices; what is launched from now on runs
    there, as if the job had been asked for with `device="npu"`.

    Cancelled on the way, the job stays where it was. Raises DeviceError if no such device is open, DeviceLost
    if it has failed; the job stays where it was then, too.
    """
    return Move(device)


def spawn(fn: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Job[T]:
    """Start a child job, on the same device and as urgent as this one unless a qos() scope says otherwise.

    `await child` gives its result. When this job ends, children that still run are cancelled and waited for;
    an error of a child that nobody awaited becomes this job's error if it has none. Raises Overloaded if the
    runtime is full and was opened with `on_full="raise"`, DeviceLost if the device has failed; never waits
    for room.
    """
    parent = current_job()
    coro = make_coroutine(fn, args, verb="coro_rt.spawn")
    urgency, level, deadline = inherit_urgency(parent)
    engine, name = parent.engine, function_name(fn)
    child: Job[T] = Job(engine, parent.worker, coro, name, urgency, level, deadline, parent.home, parent)
    try:
        engine.spawn(child)
    except BaseException:
        coro.close()
        raise
    return child
