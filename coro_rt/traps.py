"""What a job's `await` hands to its worker, and the functions that jobs call.

One idea: a trap registers the job with what it waits for and knows how to undo that, so that cancelling needs
no knowledge of any queue. Everything here runs in a worker's thread; `arrive` and `leave` under the engine's
lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coro_rt.errors import Cancelled, DeviceError, JobCancelled, WrongContext
from coro_rt.job import CancelReason, Job, JobEntry, function_name, inherit_urgency, make_coroutine
from coro_rt.schedulers.entry import Entry, State

if TYPE_CHECKING:
    from coro_rt.worker import Worker

T = TypeVar("T")


class _Local(threading.local):
    worker: Worker | None = None  # whose thread this is


local = _Local()


class Trap:
    """Something that a job awaits. Subclasses say when it is over."""

    __slots__ = ()

    on: Entry | None = None  # the entry that is waited for, which inherits urgency
    soft = False  # it may also be over without `on`: rather than close a circle, it lets go of that

    def what(self) -> str:
        """What is waited for, in a few words for people; "" leaves it open."""
        return ""

    def arrive(self, job: Job[Any]) -> bool:
        """Under the lock. True: nothing to wait for (the answer is in `job.inbox`). False: registered; to be
        woken."""
        raise NotImplementedError

    def leave(self, job: Job[Any]) -> bool:
        """Under the lock: undo `arrive`. False: it takes a moment, and the job will be woken as usual."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Under the lock, for a soft one: `on` is going to wait for this job."""

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield self)
        except (RuntimeError, TypeError) as exc:  # an event loop's answer to what it does not know
            if local.worker is None:
                raise outside_a_job(type(self).__name__.lower().strip("_")) from exc
            raise


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


def outside_a_job(what: str) -> WrongContext:
    """The error for what only works in a job."""
    return WrongContext(f"{what} works only inside a job: start one with `await runtime.run(fn, *args)`")


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
        with engine.deciding():
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


class Join(Trap):
    """Until another job has ended; it inherits the waiter's urgency."""

    __slots__ = ("on", "other")

    def __init__(self, other: Job[Any]) -> None:
        self.other = other
        self.on = other.entry

    def what(self) -> str:
        return "a result"

    def arrive(self, job: Job[Any]) -> bool:
        if self.other.state is State.DONE:
            job.inbox, job.inbox_error = join_outcome(self.other)
            return True
        if self.other.engine is not job.engine:
            job.inbox_error = WrongContext(f"{self.other.name} belongs to another runtime than {job.name}")
            return True
        if self.other.joiners is None:
            self.other.joiners = {}
        self.other.joiners[job] = None
        return False

    def leave(self, job: Job[Any]) -> bool:
        assert self.other.joiners is not None
        del self.other.joiners[job]
        return True


def join_outcome(job: Job[Any]) -> tuple[Any, BaseException | None]:
    """Under the lock: what an ended job's joiner gets, its value or an exception to raise."""
    if job.parent is not None:
        job.parent.forget_child(job)  # its error is not the parent's to take over any more
    if isinstance(job.error, Cancelled):
        reason = CancelReason.HAND if job.cancelled is None else job.cancelled
        return None, JobCancelled(f"{job.name} has no result: {reason.value}")
    return job.value, job.error


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
    child: Job[T] = Job(
        parent.engine,
        parent.worker,
        coro,
        name=function_name(fn),
        urgency=urgency,
        qos=level,
        deadline=deadline,
        parent=parent,
        home=parent.home,
    )
    try:
        parent.engine.spawn(child)
    except BaseException:
        coro.close()
        raise
    return child
