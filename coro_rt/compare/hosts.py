"""Run an async function on one of the three host loops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

BACKENDS = ("trio", "asyncio", "uvloop")


def run_on(backend: str, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`fn(*args)` on a new loop: "trio", "asyncio" or "uvloop"."""
    if backend == "uvloop":
        return anyio.run(fn, *args, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(fn, *args, backend=backend)
