"""The event loop of a command. Ctrl-C cancels the command as any scope is: all is closed in order."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


def run_async(command: Callable[[], Awaitable[T]], backend: str) -> T:
    """Run `command` on "trio", "asyncio" or "uvloop".

    Raises its error (of a group of them, the first), and KeyboardInterrupt after Ctrl-C.
    """
    try:
        if backend == "trio":
            return anyio.run(_interruptible, command, backend="trio")
        return anyio.run(
            _interruptible, command, backend="asyncio", backend_options={"use_uvloop": backend == "uvloop"}
        )
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _interruptible(command: Callable[[], Awaitable[T]]) -> T:
    interrupted = False

    async def watch() -> None:
        nonlocal interrupted
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                interrupted = True
                break  # from here on, a second Ctrl-C ends the process the usual way
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            result = await command()
            group.cancel_scope.cancel()
    except Exception:
        if not interrupted:  # else it is a consequence: Ctrl-C goes to child processes as well
            raise
    if interrupted:
        raise KeyboardInterrupt
    return result


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
