"""A lock and an event between jobs, through which urgency is inherited: whoever is waited for runs as its
waiters would.

The state is touched under the engine's lock, which is learnt from the jobs that use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from coro_rt.errors import Cancelled, WrongContext
from coro_rt.hosts import protected
from coro_rt.job import Job
from coro_rt.schedulers.entry import Entry
from coro_rt.trap import Trap
from coro_rt.traps import current_job

if TYPE_CHECKING:
    from coro_rt.engine import Engine


class _Acquire(Trap):
    __slots__ = ("lock", "on")

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def what(self) -> str:
        return "a lock"

    def arrive(self, job: Job[Any]) -> bool:
        lock = self.lock
        if lock._holder is None:
            lock._holder = job
            return True
        if lock._holder.engine is not job.engine:
            job.inbox_error = other_runtime("lock", job)
            return True
        self.on: Entry | None = lock._holder.entry
        lock._waiting[job] = None
        return False

    def leave(self, job: Job[Any]) -> bool:
        del self.lock._waiting[job]
        return True


class Lock:
    """`async with lock:` in jobs of one runtime. Goes to the most urgent waiter; its holder inherits its
    waiters' urgency.

    Not re-entrant: taking it twice is a DeadlockError, as is any circle of waiting. May be made anywhere.
    """

    __slots__ = ("_holder", "_waiting")

    def __init__(self) -> None:
        self._holder: Job[Any] | None = None
        self._waiting: dict[Job[Any], None] = {}  # in the order in which they came

    def locked(self) -> bool:
        """Whether a job holds it."""
        return self._holder is not None

    async def acquire(self) -> None:
        """Take it; a switch point. If cancelled, it is not taken."""
        job = current_job()
        try:
            await _Acquire(self)
        except Cancelled:
            if self._holder is job:  # handed over in the moment of being cancelled
                self.release()
            raise

    def release(self) -> None:
        """Hand it on. Raises RuntimeError unless called by the job that holds it."""
        job = current_job()
        if self._holder is not job:
            holder = "nobody does" if self._holder is None else f"{self._holder.name} does"
            raise RuntimeError(f"{job.name} does not hold this lock, {holder}")
        engine = job.engine
        with engine.deciding:
            if not self._waiting:
                self._holder = None
                return
            heir = min(self._waiting, key=lambda waiter: (-waiter.entry.effective_qos, waiter.entry.key))
            del self._waiting[heir]
            self._holder = heir
            for waiter in self._waiting:  # they wait for another job now
                engine.scheduler.park(waiter.entry, engine.clock(), on=heir.entry)
            engine.wake_locked(heir)  # which is as urgent as they are

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class _Wait(Trap):
    __slots__ = ("event", "on")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.on: Entry | None = None if event._owner is None else event._owner.entry

    def what(self) -> str:
        return "an event"

    def arrive(self, job: Job[Any]) -> bool:
        event = self.event
        if event._engine is None:
            event._engine = job.engine
        elif event._engine is not job.engine:
            job.inbox_error = other_runtime("event", job)
            return True
        event._waiting[job] = None  # before looking, as set() looks after setting: one sees the other
        if event._set:
            del event._waiting[job]
            return True
        return False

    def leave(self, job: Job[Any]) -> bool:
        del self.event._waiting[job]
        return True


class Event:
    """Jobs of one runtime wait for it; a job, or anybody on the host, sets it, once and for all.

    With an `owner`, the job that is going to set it, waiting is like waiting for that job: it inherits the
    urgency, and a circle is a DeadlockError. If the owner ends without setting it, the waiters go on waiting.
    """

    __slots__ = ("_engine", "_owner", "_set", "_waiting")

    def __init__(self, owner: Job[Any] | None = None) -> None:
        self._engine: Engine | None = None  # of the jobs that wait
        self._owner = owner
        self._set = False
        self._waiting: dict[Job[Any], None] = {}

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._set

    @protected
    def set(self) -> None:
        """Wake all who wait, and let all who come go on. From any thread; further calls do nothing."""
        self._set = True
        if self._engine is None or not self._waiting:
            return
        with self._engine.deciding:
            for job in self._waiting:
                self._engine.wake_locked(job)
            self._waiting.clear()

    async def wait(self) -> None:
        """Wait until it is set; a switch point. In jobs only."""
        await _Wait(self)


def other_runtime(what: str, job: Job[Any]) -> WrongContext:
    """The error for sharing between runtimes, whose jobs have different locks."""
    return WrongContext(f"{job.name} shares a {what} with jobs of another runtime: make one for each runtime")
