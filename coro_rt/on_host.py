"""`on_host`: a job has an async function run on the host's loop, where trio's, asyncio's and anyio's objects
live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio

from coro_rt.errors import JobCancelled
from coro_rt.job import Job, function_name
from coro_rt.qos import current_urgency
from coro_rt.trap import Trap
from coro_rt.traps import current_job

T = TypeVar("T")


class OnHost(Trap):
    """One call. Cancelling it cancels the scope around it; the job goes on when the function has ended."""

    __slots__ = ("args", "fn", "job", "scope")

    def __init__(self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        self.fn = fn
        self.args = args
        self.job: Job[Any] | None = None
        self.scope: anyio.CancelScope | None = None  # made and touched on the loop only

    def what(self) -> str:
        return f"on_host({function_name(self.fn)})"

    def arrive(self, job: Job[Any]) -> bool:
        self.job = job
        job.engine.after(partial(job.engine.host.post, self._start))
        return False

    def leave(self, job: Job[Any]) -> bool:
        job.engine.after(partial(job.engine.host.post, self._cancel))
        return False

    def _own_scope(self) -> anyio.CancelScope:
        """Made by `_start` or `_cancel`: a thread that cancels the job may post before its worker does."""
        if self.scope is None:
            self.scope = anyio.CancelScope(shield=True)  # ends with its job, not with who opened the runtime
        return self.scope

    def _start(self) -> None:
        assert self.job is not None
        scope = self._own_scope()
        self.job.engine.host_tasks.start_soon(self._call, scope, name=f"on_host({function_name(self.fn)})")

    def _cancel(self) -> None:
        self._own_scope().cancel()

    async def _call(self, scope: anyio.CancelScope) -> None:
        job, value = self.job, None
        assert job is not None
        engine = job.engine
        current_urgency.set(job.urgency)  # what it asks of the runtime is as urgent as the job
        began = engine.clock()
        error: BaseException | None = None
        try:
            with scope:
                value = await self.fn(*self.args)
        except Exception as exc:
            error = exc
        except BaseException:  # on asyncio it may await something else that is cancelled
            error = JobCancelled(f"on_host({function_name(self.fn)}) was cancelled on the host")
            raise
        finally:  # whatever happens, the job goes on; with its own Cancelled, if that is why this ends
            job.host_s += engine.clock() - began
            engine.wake(job, value, error)


async def on_host(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Inside a job: run `fn(*args)`, an async function, on the host's loop, and give its result.

    What it raises is raised here. If the job is cancelled, so is `fn`, and Cancelled is raised when it has
    ended. It runs in a task group of the runtime, with the job's QoS, outside the caller's cancel scopes.
    """
    current_job()
    if not callable(fn):
        raise TypeError(f"on_host takes an async function and its arguments, not {fn!r}")
    result: T = await OnHost(fn, args)
    return result
