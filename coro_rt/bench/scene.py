"""The scene: somebody asks short questions while three background jobs read long prompts and write long
answers, again and again.

A side is whoever serves it. `idle` and `busy` play a part of the scene on one side and note what was seen;
only one side plays at a time. An ask comes when the one before has been answered and a pause is over: a side
that keeps somebody waiting is asked less often, which is in its favour.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import anyio

from .prompts import Prompts

JOBS, READ, WRITE = 3, 600, 200
"""The background: how many jobs, tokens of each prompt and of each answer."""

PROMPT, ANSWER = 16, 16
"""Tokens of an ask and of its answer."""

CONTEXT = 1024
"""Tokens of a sequence: what the longest prompt and its answer need, and some more."""

GAP_S, IDLE_GAP_S = 0.4, 0.1
"""Mean pauses before an ask, beside the background and on an idle side; exponentially distributed."""

ALONE_S = 6.0
"""How long the background is watched alone, before the asks of a turn."""

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, and the pause before it."""

    gap_s: float
    ids: list[int]


@dataclass(slots=True)
class Answer:
    """What came of one ask. `reading`: background prompts that were being read when it came. `gave_way_s`:
    from its submission to its first grant of the device, where the side knows.
    """

    arrivals_s: list[float]
    """From the ask to each token."""
    reading: int
    gave_way_s: float | None = None

    @property
    def gaps_s(self) -> list[float]:
        """Between its tokens."""
        return [after - before for before, after in pairwise(self.arrivals_s)]


@dataclass(frozen=True, slots=True)
class Count:
    """What the background has done, at a time on the side's own clock.

    A prompt counts as read when the first token of its answer is there. `begun`: jobs that have written
    something. `deciding_s` and `decisions`: seconds in the scheduler and calls of it, where the side knows.
    """

    at_s: float
    read: int
    written: int
    begun: int
    deciding_s: float = 0.0
    decisions: int = 0


class Side(Protocol):
    """Whoever serves the scene: greedy, exactly as many tokens as asked for, nothing reused of what was read
    before.
    """

    name: str

    async def ask(self, ids: Sequence[int]) -> Answer:
        """`ANSWER` tokens after `ids`, for somebody who waits."""

    def background(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[Count]]]:
        """Inside the block the background runs; what it gives, counts. The jobs' first answers are of
        different lengths, so that they do not go on in step.
        """


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds of the background, and the asks answered meanwhile."""

    seconds: float
    read: int
    written: int
    asks: int
    deciding_s: float
    decisions: int

    @classmethod
    def between(cls, before: Count, after: Count, asks: int = 0) -> Window:
        return cls(
            after.at_s - before.at_s,
            after.read - before.read,
            after.written - before.written,
            asks,
            after.deciding_s - before.deciding_s,
            after.decisions - before.decisions,
        )

    @property
    def written_per_s(self) -> float:
        """Tokens of the background's answers."""
        return self.written / self.seconds

    @property
    def read_per_s(self) -> float:
        """Tokens of the background's prompts."""
        return self.read / self.seconds

    @property
    def answered_per_s(self) -> float:
        """Tokens of the asks' answers."""
        return self.asks * ANSWER / self.seconds

    @property
    def all_written_per_s(self) -> float:
        """Tokens of all answers."""
        return self.written_per_s + self.answered_per_s

    @property
    def all_per_s(self) -> float:
        """Tokens of all prompts and answers."""
        return self.all_written_per_s + (self.read + self.asks * PROMPT) / self.seconds


@dataclass
class Seen:
    """What one side did: answers on the idle side and beside the background, and windows of the background
    alone and beside the asks.
    """

    idle: list[Answer] = field(default_factory=list)
    loaded: list[Answer] = field(default_factory=list)
    alone: list[Window] = field(default_factory=list)
    beside: list[Window] = field(default_factory=list)


class Script:
    """The asks, the same for all sides; no two prompts of it or of a background begin alike."""

    def __init__(self, prompts: Prompts, seed: int) -> None:
        self._prompts = prompts
        self._gaps = random.Random(seed)
        self._number = 0  # even ones are the asks', odd ones the background's

    def asks(self, count: int, gap_s: float) -> list[Ask]:
        """The next `count`, with pauses of `gap_s` on average."""
        asks = []
        for _ in range(count):
            asks.append(Ask(self._gaps.expovariate(1 / gap_s), self._prompts.take(self._number, PROMPT)))
            self._number += 2
        return asks


async def idle(side: Side, asks: Sequence[Ask], seen: Seen, asked: Callable[[], None]) -> None:
    """Ask with nothing in the background; the first ask is not kept. `asked` is called after each."""
    for nth, ask in enumerate(asks):
        await anyio.sleep(ask.gap_s)
        answer = await side.ask(ask.ids)
        if nth:
            seen.idle.append(answer)
        asked()


async def busy(
    side: Side, asks: Sequence[Ask], seen: Seen, asked: Callable[[], None], *, alone_s: float
) -> None:
    """Ask beside the background, once all its jobs write and it has been watched alone for `alone_s`."""
    async with side.background() as count:
        while (await count()).begun < JOBS:  # noqa: ASYNC110 (it may be another process that knows)
            await anyio.sleep(POLL_S)
        first = await count()
        await anyio.sleep(alone_s)
        before = await count()
        if alone_s:
            seen.alone.append(Window.between(first, before))
        for ask in asks:
            await anyio.sleep(ask.gap_s)
            seen.loaded.append(await side.ask(ask.ids))
            asked()
        seen.beside.append(Window.between(before, await count(), len(asks)))
