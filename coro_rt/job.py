"""A job: one coroutine that workers step. Here is its state, and what may be done with it.

While it runs, its worker alone touches it, but for what other threads do under the engine's lock: to
`cancelled`, `joiners`, `waiters` and its entry.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from enum import Enum
from itertools import count
from sys import intern
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coro_rt.errors import Cancelled, HostObjectError, JobCancelled, WrongContext
from coro_rt.ledger import NOTHING, Ledger, Used, sum_up
from coro_rt.qos import Urgency, current_urgency
from coro_rt.schedulers.entry import Entry, State
from coro_rt.schedulers.qos import QoS
from coro_rt.trap import Trap, local

if TYPE_CHECKING:
    from coro_rt.engine import Engine
    from coro_rt.hosts import Waiter
    from coro_rt.kernel import Launch
    from coro_rt.schedulers.choice import Choice
    from coro_rt.stream import Outlet
    from coro_rt.trap import Trap
    from coro_rt.worker import Worker

T = TypeVar("T")

_ids = count(1)
_DONE = State.DONE


class CancelReason(Enum):
    """Who wanted the job to end."""

    SCOPE = "the task that asked for it has given it up"
    HAND = "it was cancelled by hand"
    PARENT = "the job that started it ended"
    CLOSED = "the runtime was closed"


class JobEntry(Entry):
    """The scheduler's entry, and the way back to the job."""

    __slots__ = ("job",)
    job: Job[Any]


class Job(Generic[T]):
    """A job. In another job, `await job` gives its result; until there is one, it is as urgent as the waiter.

    The exception that ended it is raised there as it is; JobCancelled if it was cancelled.
    """

    # Thousands wait at a time: the containers are made when something is put into them.
    __slots__ = (
        "__weakref__",
        "cancelled",
        "children",
        "context",
        "coro",
        "engine",
        "entry",
        "error",
        "home",
        "host_s",
        "inbox",
        "inbox_error",
        "joiners",
        "kernel_s",
        "launch",
        "measured_joules",
        "modelled_joules",
        "outlet",
        "parent",
        "parked_at",
        "past",
        "placed",
        "quanta",
        "task",
        "trap",
        "urgency",
        "value",
        "waiters",
        "winding_up",
        "worker",
    )

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        coro: Coroutine[Any, Any, T],
        name: str,
        urgency: Urgency,
        qos: QoS,
        deadline: float,
        home: str | None,
        parent: Job[Any] | None = None,
        task: str = "",
        predicted_s: float = 0.0,
    ) -> None:
        """Called with arguments in their order: by name they would take three times as long."""
        self.engine = engine
        self.worker = worker
        self.coro: Coroutine[Any, Any, Any] = coro
        self.context: Context = copy_context()
        self.urgency = urgency  # what qos() said when the job was made
        self.entry = JobEntry(next(_ids), name, qos, deadline, urgency.tenant, worker.name, predicted_s)
        self.entry.job = self  # until it is DONE
        self.parent = parent
        self.task: str = task if parent is None else parent.task  # the name of the task that asked for it
        self.children: dict[Job[Any], None] | None = None  # unfinished, or failed and not yet asked for
        self.outlet: Outlet[Any] | None = None  # where it streams to; None unless it came from Runtime.stream

        self.home = home  # the device that it was asked for on, or has moved to; None: where it pays
        self.placed: Choice | None = None  # the last choice of a device for it

        # What the coroutine gets at its next step, and where it stands.
        self.inbox: Any = None
        self.inbox_error: BaseException | None = None
        self.launch: Launch[Any] | None = None  # suspended half-done, or to be started
        self.trap: Trap | None = None  # what it waits for; set exactly while it is WAITING
        self.parked_at = 0.0  # since when

        self.cancelled: CancelReason | None = None
        self.winding_up = False  # its own code has ended, its children have not; no longer to be cancelled

        self.value: Any = None
        self.error: BaseException | None = None
        self.joiners: dict[Job[Any], None] | None = None
        self.waiters: list[Waiter] | None = None

        self.quanta = 0
        self.host_s = 0.0
        self.measured_joules = 0.0
        self.modelled_joules = 0.0
        self.kernel_s = 0.0
        self.past = NOTHING  # what the children that have ended used

    @property
    def name(self) -> str:
        """The name of its function."""
        return self.entry.name

    @property
    def state(self) -> State:
        """NEW, READY, RUNNING, WAITING or DONE."""
        return self.entry.state

    @property
    def ledger(self) -> Ledger:
        """What it and its children have used so far."""
        total = self.spent
        for child in list(self.children or ()):
            if child.state is not State.DONE:
                total += child.ledger
        return total

    @property
    def spent(self) -> Ledger:
        """Like `ledger`, without the children that have not ended."""
        return Ledger(*self.used)

    @property
    def used(self) -> Used:
        """Like `spent`, in a hurry."""
        entry = self.entry
        own = (
            entry.served_s, self.host_s, entry.waited_s, entry.switches, self.quanta,
            self.measured_joules + self.modelled_joules, self.modelled_joules, self.kernel_s,
        )  # fmt: skip
        return own if self.past is NOTHING else sum_up(self.past, own)

    def forget_child(self, child: Job[Any]) -> None:
        """A child has ended, or its error is somebody else's."""
        if self.children is not None:
            self.children.pop(child, None)

    def cancel(self) -> None:
        """Have it end: Cancelled is raised at its `await`, and at each further one. From any thread; returns
        at once."""
        self.engine.cancel(self, CancelReason.HAND)

    def set_qos(self, level: QoS | None = None, *, within_s: float | None = None) -> None:
        """Change how urgent it is, while it waits or runs; None leaves as it was. From any thread."""
        self.engine.set_qos(self, level, within_s)

    def predict(self, seconds_left: float) -> None:
        """Tell the policy how many more device seconds this will take. Counts from its next turn."""
        self.engine.predict(self, seconds_left)

    def __await__(self) -> Generator[Any, Any, T]:
        if self.entry.state is not _DONE or _wanted():
            joined: T = yield from Join(self).__await__()
            return joined
        with self.engine.lock:
            value, error = join_outcome(self)
        if error is not None:
            raise error
        result: T = value
        return result

    def __repr__(self) -> str:
        return f"<Job {self.entry.id} {self.name!r} {self.state.value}>"


def _wanted() -> bool:
    """Whether the job that runs in this thread, if one does, has to come to a switch point now."""
    worker = local.worker
    running = None if worker is None else worker.job
    return running is None or running.cancelled is not None or running.worker.device.preempt_requested()


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


def make_coroutine(
    fn: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...], *, verb: str
) -> Coroutine[Any, Any, T]:
    """`fn(*args)`, checked to be a coroutine. `verb` is the call that the user made. Raises TypeError."""
    if callable(fn):
        coro = fn(*args)
        if type(coro) is CoroutineType:
            return coro
        raise TypeError(_not_a_coroutine(fn, coro, verb))
    if inspect.iscoroutine(fn):
        fn.close()
        raise TypeError(f"{verb} takes the function and its arguments, not a coroutine: {verb}(fn, *args)")
    raise TypeError(f"{verb} takes an `async def` function, not {fn!r}")


def _not_a_coroutine(fn: Callable[..., Any], returned: object, verb: str) -> str:
    if inspect.isasyncgen(returned):
        remedy = "an async generator: use runtime.stream(...)"
    elif inspect.isgenerator(returned):
        remedy = "a generator: write `async def`, and `await` instead of `yield from`"
    else:
        remedy = f"{type(returned).__name__}: write it as `async def`"
    return f"{verb} takes an `async def` function; {function_name(fn)} returned {remedy}"


def function_name(fn: Any) -> str:
    """The name to show for a function; also for a partial or an object with `__call__`."""
    name: str | None = getattr(fn, "__qualname__", None)
    return intern(name.rpartition("<locals>.")[2]) if name else type(fn).__name__


# What asyncio, trio, sniffio and anyio say when their functions are called in a worker's thread.
_NO_LOOP = (
    "no running event loop",
    "There is no current event loop",
    "must be called from async context",
    "'NoneType' object has no attribute 'create_future'",
)
_NO_LIBRARY = ("AsyncLibraryNotFoundError", "NoEventLoopError")


def explain_host_object(error: BaseException, job: Job[Any]) -> BaseException:
    """`error`, or, where it says that a job called trio, asyncio or anyio, the HostObjectError that names the
    remedy."""
    kind = type(error).__name__
    if kind in _NO_LIBRARY or (
        isinstance(error, RuntimeError | AttributeError) and str(error).startswith(_NO_LOOP)
    ):
        better = HostObjectError(
            f"{job.name} used trio, asyncio or anyio inside a job ({kind}: {error}); jobs run in a worker's "
            "thread: call it through `await coro_rt.on_host(fn, *args)`, or use coro_rt.sleep, Lock or Event"
        )
        better.__cause__ = error
        return better
    return error


def foreign_await(trap: object, job: Job[Any]) -> HostObjectError:
    """What is raised at the `await` of something that is not coro_rt's."""
    kind = f"{type(trap).__module__}.{type(trap).__name__}"
    return HostObjectError(
        f"{job.name} awaited something that only an event loop can run ({kind}): "
        "call it through `await coro_rt.on_host(fn, *args)`"
    )


def inherit_urgency(parent: Job[Any]) -> tuple[Urgency, QoS, float]:
    """How urgent a child is: as its parent is now, unless it is started inside another qos() scope."""
    urgency = current_urgency.get()
    deadline = parent.entry.deadline
    if urgency.deadline != math.inf:
        deadline = min(deadline, parent.engine.clock() + urgency.within_s())
    level = parent.entry.qos if urgency is parent.urgency else urgency.level
    return urgency, level, deadline
