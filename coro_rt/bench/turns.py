"""Taking turns: one side is timed while the others rest.

A side is whoever generates: coro_rt itself or a peer. Each repetition takes every side once, and the order
changes from one to the next, so that what the machine's neighbours do meets all alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

PAUSE_S = 0.05
"""Threads that spin after their work (OpenMP's do, for a while) sleep before the next side begins."""

Sample = Callable[[], Awaitable[float]]


class Side(Protocol):
    """Greedy, all logits of each new token computed, no speculation, nothing kept from one call to the
    next's prompt.
    """

    name: str

    async def decode(self, ids: Sequence[int], tokens: int) -> float:
        """Tokens per second between the first and the last of `tokens` after a prompt."""

    async def prefill(self, ids: Sequence[int]) -> float:
        """Tokens of the prompt per second, until the first token of the answer is there."""


async def in_turns(samples: Sequence[Sample], repeat: int) -> list[list[float]]:
    """Each of `samples` `repeat` times, after one of each that is not kept."""
    found: list[list[float]] = [[] for _ in samples]
    for turn in range(-1, repeat):
        order = range(len(samples)) if turn % 2 else range(len(samples))[::-1]
        for at in order:
            await anyio.sleep(PAUSE_S)
            figure = await samples[at]()
            if turn >= 0:
                found[at].append(figure)
    return found
