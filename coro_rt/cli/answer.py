"""Reading a model's answer to its end, and what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coro_rt import Stream

if TYPE_CHECKING:
    from coro_rt.llm.generate import Token


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its times. `tokens_per_s` counts from the first token on; 0.0 for fewer than two."""

    text: str
    ttft_s: float
    tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None

    @property
    def figures(self) -> dict[str, float]:
        """How fast it was, for JSON."""
        return {"ttft_s": self.ttft_s, "tokens_per_s": self.tokens_per_s}


async def listen(ask: Callable[[], Stream[Token]], show: Callable[[str], object] | None = None) -> Answer:
    """Ask, and read the answer to its end, giving `show` each piece of text as it comes."""
    asked = time.perf_counter()
    moments: list[float] = []
    pieces: list[str] = []
    async with ask() as stream:
        async for token in stream:
            moments.append(time.perf_counter())
            pieces.append(token.text)
            if show:
                show(token.text)
    first, last = (moments[0], moments[-1]) if moments else (time.perf_counter(), 0.0)
    return Answer(
        text="".join(pieces),
        ttft_s=first - asked,
        tokens_per_s=(len(moments) - 1) / (last - first) if last > first else 0.0,
        prompt_tokens=stream.usage.prompt_tokens,
        completion_tokens=stream.usage.completion_tokens,
        finish_reason=stream.finish_reason,
    )


def described(answer: Answer) -> dict[str, Any]:
    """An answer, for JSON."""
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens},
        **answer.figures,
    }
