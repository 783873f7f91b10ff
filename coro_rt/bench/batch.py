"""Several texts written at once, each by a generation of its own: batching as applications get it."""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens

import anyio

from coro_rt.llm.model import LLM


async def decode(llm: LLM, count: int, ids: Tokens[int], tokens: int) -> float:
    """Greedy tokens per second of `count` generations together, after prompts of `len(ids)` tokens.

    Counted from the first token of all to the last, so some of what the others' prompts take is in it.
    """
    arrivals: list[list[float]] = [[] for _ in range(count)]

    async def one(nth: int) -> None:
        prompt = [*ids[nth:], *ids[:nth]]  # each a text of its own
        async with llm.generate(prompt, max_tokens=tokens, ignore_eos=True) as stream:
            async for _ in stream:
                arrivals[nth].append(time.perf_counter())

    async with anyio.create_task_group() as group:
        for nth in range(count):
            group.start_soon(one, nth)
    began, ended = min(times[0] for times in arrivals), max(times[-1] for times in arrivals)
    return count * (tokens - 1) / (ended - began)
