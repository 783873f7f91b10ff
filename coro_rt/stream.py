"""A stream: what a generating job hands to a task, item by item, through a bounded buffer.

Two halves. The task has the `Stream`; the job has the `Outlet`, and no reference to the Stream, so that a
Stream that is forgotten is collected, says so, and ends its job. The buffer is shared, under the engine's
lock.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from coro_rt.errors import Cancelled
from coro_rt.handle import collect, ended
from coro_rt.hosts import Waiter, protected
from coro_rt.job import Job, function_name
from coro_rt.ledger import Ledger
from coro_rt.schedulers.batch import Batch
from coro_rt.schedulers.entry import State
from coro_rt.schedulers.qos import QoS
from coro_rt.trap import Trap

if TYPE_CHECKING:
    from coro_rt.engine import Engine
    from coro_rt.runtime import Runtime

T = TypeVar("T")


class Outlet(Generic[T]):
    """The job's half of a stream: `current_job().outlet`. The job may set `finish_reason` and `usage` before
    it ends."""

    __slots__ = ("_buffer", "_engine", "_items", "_parked", "_waiter", "finish_reason", "on_full", "usage")

    def __init__(self, engine: Engine, buffer: int) -> None:
        self.finish_reason: str | None = None  # "stop" if the job sets none and ends well
        self.usage: Any = None
        self.on_full: Callable[[], object] | None = None  # called under the lock when the job waits for room
        self._engine = engine
        self._buffer = buffer
        self._items: deque[T] = deque()
        self._parked: Job[Any] | None = None  # the job, while it waits for room
        self._waiter: Waiter | None = None  # the task's, while it waits for an item or the end

    def offer(self, item: T) -> None:
        """The job's side: one more item. The job then waits for room, so there is never more than the buffer
        takes."""
        with self._engine.deciding:
            self._items.append(item)
            self._tell_locked()

    def take(self, job: Job[Any], waiter: Waiter) -> tuple[T] | tuple[()] | None:
        """The task's side: the next item; `()`: there are no more, the job has ended; None: none yet, wait
        for `waiter`."""
        with self._engine.deciding:
            if not self._items:
                if job.state is State.DONE:  # asked here: it may yield an item and end right after this
                    return ()
                self._waiter = waiter
                return None
            item = self._items.popleft()
            if self._parked is not None and len(self._items) <= self._buffer // 2:
                self._parked = None
                self._engine.wake_locked(job)
            return (item,)

    def end_locked(self, error: BaseException | None) -> None:
        """The job has ended."""
        if isinstance(error, Cancelled):
            self.finish_reason = "cancelled"
        elif error is not None:
            self.finish_reason = "error"
        elif self.finish_reason is None:
            self.finish_reason = "stop"
        self._tell_locked()

    def _tell_locked(self) -> None:
        if self._waiter is not None:
            self._engine.after(self._waiter.deliver)
            self._waiter = None


class _Room(Trap):
    """Until the buffer has room again."""

    __slots__ = ("_outlet",)

    def __init__(self, outlet: Outlet[Any]) -> None:
        self._outlet = outlet

    def what(self) -> str:
        return "room in its stream's buffer"

    def arrive(self, job: Job[Any]) -> bool:
        outlet = self._outlet
        if len(outlet._items) < outlet._buffer:
            return True
        outlet._parked = job
        if outlet.on_full is not None:
            outlet.on_full()
        return False

    def leave(self, job: Job[Any]) -> bool:
        self._outlet._parked = None
        return True


async def pump(fn: Callable[..., AsyncGenerator[T, None]], args: tuple[Any, ...], outlet: Outlet[T]) -> None:
    """The coroutine of a streaming job: what the generator yields goes into the outlet. A switch point at
    each item."""
    items: AsyncGenerator[T, None] = fn(*args)
    if not isinstance(items, AsyncGenerator):
        raise TypeError(
            f"runtime.stream takes an async generator function; {function_name(fn)} gave {items!r}"
        )
    async for item in items:
        outlet.offer(item)
        try:
            await _Room(outlet)
        except Cancelled as exc:  # raise it where the generator stands, at its `yield`
            try:
                await items.athrow(exc)
                await items.aclose()  # it went on: end it
            except StopAsyncIteration:
                pass
            raise


class Stream(Generic[T]):
    """What `Runtime.stream` gives: an asynchronous iterator that owns a job.

    The job is submitted at the first `async with` or `anext`, with the QoS, context and deadline of that
    place. It is cancelled, and waited for, when the `async with` block is left, by `aclose()`, and when a
    task is cancelled in `anext`. A started stream that is dropped before its end cancels its job as well,
    without waiting, with a ResourceWarning. One task at a time.

    An exception that ends the job is raised once, by `anext`; then the stream is exhausted.
    """

    def __init__(
        self,
        runtime: Runtime,
        fn: Callable[..., AsyncGenerator[T, None]],
        args: tuple[Any, ...] = (),
        *,
        buffer: int = 16,
        device: str | None = None,
        predicted_s: float = 0.0,
        batch: Batch | None = None,
    ) -> None:
        self._closed = True  # for __del__, should this raise
        name = function_name(fn)
        if not callable(fn):
            raise TypeError(f"runtime.stream takes an async generator function and its arguments, not {fn!r}")
        if inspect.iscoroutinefunction(fn):
            raise TypeError(
                f"{name} is a coroutine function, without `yield`: use `runtime.run({name}, ...)`"
            )
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:
            raise ValueError(f"buffer is a number of items, at least 1, not {buffer!r}")
        self._runtime = runtime
        self._engine = runtime._engine
        self._fn = fn
        self._args = args
        self._device = device
        self._predicted_s = predicted_s
        self._batch = batch  # of the launches that the job will bring
        self._outlet: Outlet[T] = Outlet(runtime._engine, buffer)
        self._job: Job[None] | None = None
        self._busy = False  # a task is in anext
        self._closed = False  # nothing more will come out

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: "stop", "length", whatever the job says, "cancelled" or "error"; None while it goes
        on."""
        if self._job is None:
            return "cancelled" if self._closed else None
        return self._outlet.finish_reason if self._job.state is State.DONE else None

    @property
    def usage(self) -> Any:
        """What the job says it took; None before it does."""
        return self._outlet.usage

    @property
    def job(self) -> Job[None] | None:
        """The job, once submitted."""
        return self._job

    @property
    def ledger(self) -> Ledger:
        """What the job has used so far."""
        return Ledger() if self._job is None else self._job.ledger

    def set_qos(self, level: QoS | None = None, *, within_s: float | None = None) -> None:
        """Change how urgent the job is. It must have been started."""
        if self._job is None:
            raise RuntimeError("this stream has not started: open a qos() scope around its first use instead")
        self._job.set_qos(level, within_s=within_s)

    @protected
    async def __aenter__(self) -> Self:
        if self._job is None and not self._closed:
            await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    @protected
    async def __anext__(self) -> T:
        self._engine.host.check()
        if self._busy:
            raise RuntimeError("two tasks iterate the same stream: give each its own, or pass the items on")
        if self._closed:
            raise StopAsyncIteration
        self._busy = True
        try:
            if self._job is None:
                await self._start()
            assert self._job is not None
            return await self._next(self._job)
        except GeneratorExit:  # the task itself is thrown away; __del__ sees to the job
            raise
        except BaseException:
            self._closed = True
            if self._job is not None:
                await ended(self._engine, self._job)
            raise
        finally:
            self._busy = False

    @protected
    async def _next(self, job: Job[None]) -> T:
        host = self._engine.host
        if self._outlet._items:
            await host.checkpoint()  # a job that is always ahead must not keep the loop from others
        while True:
            waiter = Waiter(host)
            found = self._outlet.take(job, waiter)
            if found:
                return found[0]
            if found is not None:
                if not self._closed:  # by another task, meanwhile
                    collect(job)
                raise StopAsyncIteration
            interrupted = await host.wait(waiter, partial(self._engine.cancel_for_task, job))
            if interrupted is not None:
                again = await ended(self._engine, job)
                (again or interrupted)()

    @protected
    async def aclose(self) -> None:
        """Cancel the job if it has not ended, and wait until it has. Further calls do nothing."""
        self._closed = True
        if self._job is None or self._job.state is State.DONE:
            return
        self._engine.host.check()
        interrupted = await ended(self._engine, self._job)
        if interrupted is not None:
            interrupted()

    async def _start(self) -> None:
        self._job = await self._runtime._start(
            partial(pump, self._fn, self._args, self._outlet),
            name=function_name(self._fn),
            outlet=self._outlet,
            device=self._device,
            predicted_s=self._predicted_s,
            batch=self._batch,
        )

    def __del__(self) -> None:
        if self._closed or self._job is None or self._job.state is State.DONE:
            return
        job = self._job
        self._engine.host.post(job.cancel)  # no lock may be taken here: this thread may hold it
        warnings.warn(
            f"a stream of {job.name} was dropped before its end: use `async with`, or call aclose()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
