"""The event loop that opened the runtime: how its tasks wait for workers, and how workers wake them.

Directly on trio and on asyncio (uvloop included); anyio only where nothing is hot. One idea: workers put what
is ready into one box, and whoever finds no wake-up on its way sends one, so that the loop is woken once for
all that is ready.
"""

import asyncio
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from math import inf
from typing import Any, NoReturn, TypeVar, cast

import anyio
import anyio.lowlevel

from coro_rt.bell import Bell
from coro_rt.errors import WrongContext
from coro_rt.turn import Turn

F = TypeVar("F", bound=Callable[..., Any])

Interrupt = Callable[[], NoReturn]  # raises the cancellation that came while waiting


_protected: list[Callable[..., Any]] = []
_forks = 0  # how many lie between the program's start and this process


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # asking the system which process this is takes longer
    os.register_at_fork(after_in_child=_count_fork)


def protected(fn: F) -> F:
    """Decorator: on trio, no KeyboardInterrupt is raised in the middle of this function, only where it
    awaits."""
    _protected.append(fn)
    return fn


class Waiter:
    """One task's wait for one event. `deliver` may be called once, from any thread."""

    __slots__ = ("_host", "delivered", "task")

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.delivered = False  # only touched on the loop
        self.task: Any = None  # trio's task or asyncio's future, while it waits

    def deliver(self) -> None:
        self._host.post(self._arrive)

    def _arrive(self) -> None:
        self.delivered = True
        if self.task is not None:
            task, self.task = self.task, None
            self._host._resume(task)


class Host(ABC):
    """The loop of one runtime. Everything but `post` is called on the loop."""

    level_triggered: bool  # a cancellation comes again at the next await: no need to drop a result for it

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._forks = _forks
        # anyio's functions look for the loop's kind first, each time, which takes four times as long
        self._backend = anyio.lowlevel.current_token().backend_class
        self._box: deque[Callable[[], None]] = deque()
        self._awake = False  # a call of _drain is on its way
        self.rests = False  # the worker that posts has no more to do: it need not keep the interpreter's lock

    def post(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop soon. From any thread, also from `__del__`; does nothing once the loop
        has ended."""
        self._box.append(callback)
        if not self._awake:  # _drain clears it before it looks into the box, so nothing is left behind
            self._awake = True
            self._wake()

    def _drain(self) -> None:
        self._awake = False
        box = self._box
        try:
            for _ in range(len(box)):  # not what is posted meanwhile: the loop has others to look after
                box.popleft()()
        finally:
            if box and not self._awake:
                self._awake = True
                self._wake()

    def forked(self) -> bool:
        """Whether this is a child process of the one that opened the runtime."""
        return self._forks != _forks

    def check(self) -> None:
        """Raise WrongContext unless called on the loop, thread and process that opened the runtime."""
        if self._forks != _forks:
            raise WrongContext("this runtime was opened before a fork: open a new one in the child process")
        if threading.get_ident() != self._thread:
            raise WrongContext(
                "this runtime belongs to the event loop of another thread: call it there (inside a job, use "
                "coro_rt.spawn; from a plain thread, anyio.from_thread.run)"
            )
        if not self._is_current():
            raise WrongContext("this runtime was opened on another event loop: open one runtime per loop")

    def within_s(self) -> float:
        """Seconds to the earliest deadline of the enclosing cancel scopes; `inf`: none, `-inf`: cancelled."""
        deadline = self._backend.current_effective_deadline()
        return deadline if abs(deadline) == inf else deadline - self._backend.current_time()

    @abstractmethod
    async def wait(self, waiter: Waiter, on_cancel: Callable[[], bool]) -> Interrupt | None:
        """Wait until `waiter` is delivered.

        When the task is cancelled meanwhile, `on_cancel` is called, at most once. If it returns True the
        waiter is given up and the cancellation is raised; if False the wait goes on, and what is returned in
        the end raises the cancellation.
        """

    @abstractmethod
    async def checkpoint(self) -> None:
        """Let other tasks run, and be cancelled."""

    @abstractmethod
    def task(self) -> Any:
        """The running task; None in a callback of the loop's."""

    @abstractmethod
    def task_name(self) -> str:
        """What the running task is called, for people."""

    def close(self) -> None:
        """The runtime is closed, its workers have ended. What they posted last is done here: nobody listens
        any more."""
        self._unplug()
        self._drain()

    @abstractmethod
    def _unplug(self) -> None:
        """Stop listening to the bell."""

    @abstractmethod
    def _is_current(self) -> bool: ...

    @abstractmethod
    def _wake(self) -> None:
        """Have `_drain` called on the loop; from any thread."""

    @abstractmethod
    def _resume(self, task: Any) -> None: ...


class AsyncioHost(Host):
    """asyncio, and uvloop."""

    level_triggered = False

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # for _drain: a worker's own context is none of the loop's
        self._bell: Bell | None = Bell()
        try:
            self._loop.add_reader(self._bell.fileno(), self._hear, self._bell)
        except NotImplementedError:  # Windows' default loop
            self._bell = None

    def _hear(self, bell: Bell) -> None:
        bell.silence()
        self._drain()

    def _unplug(self) -> None:
        if self._bell is not None:
            self._loop.remove_reader(self._bell.fileno())

    def _is_current(self) -> bool:
        return asyncio.get_running_loop() is self._loop

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring(keep_lock=not self.rests)
            return
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be woken
            self._loop.call_soon_threadsafe(self._drain, context=self._context)

    def _resume(self, task: Any) -> None:
        task.come()

    def task(self) -> Any:
        return asyncio.current_task()

    def task_name(self) -> str:
        task = asyncio.current_task()
        return "" if task is None else task.get_name()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def wait(self, waiter: Waiter, on_cancel: Callable[[], bool]) -> Interrupt | None:
        if waiter.delivered:
            return None
        waiter.task = Turn(loop=self._loop)
        try:
            await waiter.task
            return None
        except asyncio.CancelledError as exc:
            cancelled = exc
            waiter.task = None
        if not waiter.delivered:
            if on_cancel():
                raise cancelled
            # anyio would cancel again at every turn of the loop. Native cancels come through, and are
            # remembered.
            with anyio.CancelScope(shield=True):
                while not waiter.delivered:
                    waiter.task = Turn(loop=self._loop)
                    try:
                        await waiter.task
                    except asyncio.CancelledError as exc:
                        cancelled = exc
                        waiter.task = None

        def interrupt() -> NoReturn:
            raise cancelled

        return interrupt


class _Ear:
    """An instrument of trio's: looks into the box whenever the loop has looked for events, before its tasks.

    So who waits for a job runs in the turn of the loop that the bell has woken, not in the one after it, as
    if the task that listens had to tell it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def after_io_wait(self, timeout: float) -> None:
        if self._host._box:
            self._host._drain()


class TrioHost(Host):
    """trio."""

    level_triggered = True

    def __init__(self) -> None:
        super().__init__()
        import trio  # here: an application on asyncio need not load it

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._bell = Bell()
        self._ear = cast(Any, _Ear(self))  # trio need not be there for its class
        trio.lowlevel.add_instrument(self._ear)
        self._listening = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._listen, name="coro_rt: what workers have ready")
        for fn in _protected:
            trio.lowlevel.enable_ki_protection(fn)

    def _is_current(self) -> bool:
        return self._trio.lowlevel.current_trio_token() is self._token

    async def _listen(self) -> None:
        with self._listening:
            while True:
                await self._trio.lowlevel.wait_readable(self._bell.fileno())
                self._bell.silence()
                self._drain()

    def _unplug(self) -> None:
        self._listening.cancel()
        with suppress(KeyError):  # taken out by trio: a callback had raised
            self._trio.lowlevel.remove_instrument(self._ear)

    def _wake(self) -> None:
        self._bell.ring(keep_lock=not self.rests)

    def _resume(self, task: Any) -> None:
        self._trio.lowlevel.reschedule(task)

    def within_s(self) -> float:  # in half the time
        deadline = self._trio.current_effective_deadline()
        return deadline if abs(deadline) == inf else deadline - self._trio.current_time()

    def task(self) -> Any:
        return self._trio.lowlevel.current_task()

    def task_name(self) -> str:
        name: str = self._trio.lowlevel.current_task().name
        return name

    async def checkpoint(self) -> None:
        await self._trio.lowlevel.checkpoint()

    async def wait(self, waiter: Waiter, on_cancel: Callable[[], bool]) -> Interrupt | None:
        if waiter.delivered:
            return None
        lowlevel = self._trio.lowlevel
        interrupt: Interrupt | None = None

        def abort(raise_cancel: Interrupt) -> Any:
            nonlocal interrupt
            if on_cancel():
                waiter.task = None
                return lowlevel.Abort.SUCCEEDED
            interrupt = raise_cancel
            return lowlevel.Abort.FAILED

        waiter.task = lowlevel.current_task()
        await lowlevel.wait_task_rescheduled(abort)
        return interrupt


def current_host() -> Host:
    """The host of the running loop. Raises WrongContext where there is none."""
    trio = sys.modules.get("trio")  # not loaded: not running
    if trio is not None and trio.lowlevel.in_trio_run():  # before asyncio, whose guest it may be
        return TrioHost()
    try:
        return AsyncioHost()
    except RuntimeError:
        raise WrongContext("open_runtime() needs a running event loop, of trio or asyncio") from None
