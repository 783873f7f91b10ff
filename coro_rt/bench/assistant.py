"""coro_rt as a side of the scene: tasks that ask a model for text, as an application's do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from time import perf_counter

import anyio

import coro_rt
from coro_rt import QoS
from coro_rt.llm.model import LLM

from .decisions import Decisions
from .prompts import Prompts
from .scene import ANSWER, JOBS, READ, WRITE, Answer, Count


class Background:
    """What the three tasks have done."""

    def __init__(self, llm: LLM, prompts: Prompts, numbers: count[int]) -> None:
        self._llm, self._prompts, self._numbers = llm, prompts, numbers
        self.read = self.written = self.reading = 0
        self.begun: set[int] = set()

    async def renew(self, task: int) -> None:
        """One task: prompt after prompt, until cancelled."""
        tokens = WRITE * (task + 1) // JOBS  # of the first answer
        while True:
            await self._one(task, self._prompts.take(next(self._numbers), READ), tokens)
            tokens = WRITE

    async def _one(self, task: int, ids: Sequence[int], tokens: int) -> None:
        reading = True
        self.reading += 1
        try:
            async with self._llm.generate(ids, max_tokens=tokens, ignore_eos=True) as stream:
                async for _ in stream:
                    if reading:
                        reading = False
                        self.reading -= 1
                        self.read += READ
                        self.begun.add(task)
                    self.written += 1
        finally:
            self.reading -= reading


class Assistant:
    """A side. The runtime's policy becomes `policy` when its background begins. `numbers`: of the
    background's prompts; assistants that share a model share them.
    """

    def __init__(
        self, runtime: coro_rt.Runtime, llm: LLM, policy: str, prompts: Prompts, numbers: count[int],
        decisions: Decisions,
    ) -> None:  # fmt: skip
        self.name = policy
        self._runtime, self._llm, self._decisions = runtime, llm, decisions
        self._prompts, self._numbers = prompts, numbers
        self._background: Background | None = None

    async def ask(self, ids: Sequence[int]) -> Answer:
        """The clock runs from the call of `generate` until the token is in the task."""
        arrivals = []
        reading = self._background.reading if self._background else 0
        with coro_rt.qos(QoS.USER_INTERACTIVE):
            began = perf_counter()
            async with self._llm.generate(ids, max_tokens=ANSWER, ignore_eos=True) as stream:
                async for _ in stream:
                    arrivals.append(perf_counter() - began)
        assert stream.job is not None
        entry = stream.job.entry
        return Answer(arrivals, reading, entry.started_at - entry.submitted_at)

    @asynccontextmanager
    async def background(self) -> AsyncIterator[Callable[[], Awaitable[Count]]]:
        self._runtime.set_policy(self.name)
        found = self._background = Background(self._llm, self._prompts, self._numbers)
        decisions = self._decisions

        async def counted() -> Count:
            return Count(
                perf_counter(),
                found.read,
                found.written,
                len(found.begun),
                decisions.seconds,
                decisions.calls,
            )

        try:
            async with anyio.create_task_group() as tasks:
                with coro_rt.qos(QoS.BACKGROUND):
                    for task in range(JOBS):
                        tasks.start_soon(found.renew, task)
                yield counted
                tasks.cancel_scope.cancel()
        finally:
            self._background = None
