"""llama.cpp's server as a side of the scene: `server_child` in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from .child import Child
from .prompts import Prompts
from .scene import Answer, Count


class Server:
    """A side. `batch`: tokens in one of its steps at most; None: llama.cpp's default."""

    def __init__(self, model: Path, prompts: Prompts, *, threads: int, batch: int | None) -> None:
        self.name = "llama.cpp" + (f" (batch {batch})" if batch else "")
        self._child = Child([sys.executable, "-m", "coro_rt.bench.server_child"], self.name)
        self._open = partial(
            self._do, "open", model=str(model), threads=threads, batch=batch,
            text=list(prompts.text), vocabulary=prompts.vocabulary, seed=prompts.seed,
        )  # fmt: skip

    async def open(self) -> str:
        """Load the model; what llama.cpp says about the instruction sets. CoroRtError if it cannot."""
        info: str = (await self._open())["info"]
        return info

    async def ask(self, ids: Sequence[int]) -> Answer:
        return Answer(**await self._do("ask", ids=list(ids)))

    @asynccontextmanager
    async def background(self) -> AsyncIterator[Callable[[], Awaitable[Count]]]:
        await self._do("begin")
        yield self._count
        await self._do("end")

    def close(self) -> None:
        """End the process."""
        self._child.close()

    async def _count(self) -> Count:
        return Count(**await self._do("count"))

    async def _do(self, do: str, **request: Any) -> dict[str, Any]:
        """In a thread, so that Ctrl-C is heard; whoever is cancelled leaves the child to `close`."""
        ask = partial(self._child.ask, do, **request)
        return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
