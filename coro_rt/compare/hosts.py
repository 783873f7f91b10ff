"""Run an async function on one of the three host loops, and threads on one core."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

BACKENDS = ("trio", "asyncio", "uvloop")
CAN_PIN = hasattr(os, "sched_setaffinity")  # Linux
PINNED = ", on one core"


@contextmanager
def one_core() -> Iterator[None]:
    """All threads of this process, those that it starts in the block and those that are kept for reuse, share
    a core."""
    allowed = os.sched_getaffinity(0)
    _allow({max(allowed)})
    try:
        yield
    finally:
        _allow(allowed)


def _allow(cpus: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cpus)


def placements(who: str) -> tuple[str, ...]:
    """The names of two figures of which the better one counts: as the system places the threads, and all on
    one core, if that can be had."""
    return (who, who + PINNED) if CAN_PIN else (who,)


def run_on(backend: str, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`fn(*args)` on a new loop: "trio", "asyncio" or "uvloop"."""
    if backend == "uvloop":
        return anyio.run(fn, *args, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(fn, *args, backend=backend)
