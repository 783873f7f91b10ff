"""coro_rt as a side: `llm.generate`, timed in the task that iterates the stream."""

from __future__ import annotations

import time
from collections.abc import Sequence

from coro_rt.llm.model import LLM


class Ours:
    """A loaded model, whatever number of threads its runtime has."""

    name = "coro_rt"

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    async def decode(self, ids: Sequence[int], tokens: int) -> float:
        arrivals, _ = await self._arrivals(ids, tokens)
        return (tokens - 1) / (arrivals[-1] - arrivals[0])

    async def prefill(self, ids: Sequence[int]) -> float:
        _, ended_s = await self._arrivals(ids, 1)
        return len(ids) / ended_s

    async def _arrivals(self, ids: Sequence[int], tokens: int) -> tuple[list[float], float]:
        """Seconds from the call to each token, and to the end."""
        began = time.perf_counter()
        arrivals = []
        async with self._llm.generate(ids, max_tokens=tokens, ignore_eos=True) as stream:
            async for _ in stream:
                arrivals.append(time.perf_counter() - began)
        ended = time.perf_counter() - began
        if len(arrivals) != tokens:
            raise RuntimeError(f"coro_rt was asked for {tokens} tokens and gave {len(arrivals)}")
        return arrivals, ended
