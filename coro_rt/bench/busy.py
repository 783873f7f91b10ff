"""A neighbour that wants a core: one endless loop, pinned to the last core that this process may use."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from coro_rt.errors import CoroRtError

SETTLE_S = 0.3


def core() -> int:
    """The one it is pinned to. CoroRtError where a process cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        raise CoroRtError("a busy neighbour is pinned to a core, which needs Linux here")
    return max(os.sched_getaffinity(0))


@asynccontextmanager
async def beside_busy_loop() -> AsyncIterator[None]:
    """The loop runs inside the block."""
    code = f"import os; os.sched_setaffinity(0, {{{core()}}})\nwhile True: pass"
    loop = await anyio.open_process([sys.executable, "-c", code])
    try:
        await anyio.sleep(SETTLE_S)
        yield
    finally:
        loop.kill()
        with anyio.CancelScope(shield=True):
            await loop.aclose()
