"""The jobs of a language model: generating tokens, and scoring a text.

A prompt is read in chunks; then each token is one row. Chunks and rows of several jobs may share a step of
the model (`step.py`), which the worker may suspend after any chunk of work and go on with later. What a job
holds (pages, buffers) it gives back in `finally`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from coro_rt.errors import ModelError
from coro_rt.kernels.formats import Floats
from coro_rt.schedulers.pace import CHUNK
from coro_rt.traps import current_job

from .request import Request
from .sampling import Sampler
from .sequence import Sequence
from .step import Advance, Part, advance, step
from .text import TextStream

if TYPE_CHECKING:
    from .model import Model

SCORE_CHUNK = 32
"""Tokens in one step when each one's logits are wanted, which take 4 bytes for every word there is."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` is what became certain with it: perhaps nothing, never half a character.

    `logprob`: natural logarithm of the model's own probability, before temperature and penalties.
    """

    id: int
    text: str
    logprob: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took. `reused_tokens` of the prompt were in memory from the turn before."""

    prompt_tokens: int
    completion_tokens: int = 0
    reused_tokens: int = 0


class Lender(Protocol):
    """Who owns the sequence that a generation works in."""

    def lend(self, answer: list[str]) -> AbstractContextManager[Sequence]:
        """A sequence for one job; the job puts the pieces of its text into `answer`."""


class Reader(Protocol):
    """A device that reads prompts for the one that decodes: see `npu.NpuReader`."""

    async def read(self, sequence: Sequence, tokens: list[int], following_s: float) -> None: ...

    def close(self) -> None: ...


async def generate(model: Model, request: Request, lender: Lender) -> AsyncGenerator[Token, None]:
    """Stream tokens after `request.prompt`; what the lent sequence shares with the prompt is not computed
    again.

    Sets the stream's `usage` and its `finish_reason`: "stop" or "length".
    """
    outlet = current_job().outlet
    assert outlet is not None, "generate streams"
    prompt, sampling = request.prompt, request.sampling
    greedy = sampling.temperature == 0 and sampling.repetition_penalty == 1
    sampler = Sampler(sampling)
    text = TextStream(model.tokenizer.bytes_after(prompt[-1]), request.stop)
    history = list(prompt)
    answer: list[str] = []
    async with model.in_use():
        with lender.lend(answer) as sequence:
            reused = await sequence.begin(prompt, len(prompt) + request.max_tokens - 1)
            outlet.usage = Usage(len(prompt), 0, reused)
            # all pages at once: else prompts that are read in turns might each come half-way
            await sequence.make_room(len(prompt), rows=min(len(prompt) - reused, CHUNK), logits=not greedy)
            if model.reader is not None and len(prompt) > reused + 1:
                with sequence.pinned():  # all but the last, whose logits are needed
                    following_s = model.pace.left_s(0, request.max_tokens)
                    await model.reader.read(sequence, prompt[reused:-1], following_s)
            left = prompt[len(sequence.tokens) :]
            found = await _put(model, sequence, left, request.max_tokens, logits=not greedy)
            chosen = deque(found.chosen)
            for produced in range(1, request.max_tokens + 1):
                token, logprob = chosen.popleft()
                if not greedy:
                    token = sampler.sample(sequence.logits, history, len(history))
                    logprob = float(sequence.logits[token] - found.log_sum)
                elif not math.isfinite(logprob):  # the best of NaN is no token
                    raise ModelError(f"the logits at position {len(history)} are not numbers")
                if token in model.tokenizer.eos_ids and not request.ignore_eos:
                    rest = text.flush()
                    answer.append(rest)
                    if rest:  # what waited for its other half, or might have begun a stop string
                        yield Token(token, rest, logprob)
                    outlet.finish_reason = "stop"
                    return
                history.append(token)
                last = produced == request.max_tokens or len(history) > model.context
                released = text.push(token)
                if last and not text.stopped:
                    released += text.flush()
                answer.append(released)
                outlet.usage = Usage(len(prompt), produced, reused)
                outlet.finish_reason = "stop" if text.stopped else "length" if last else None
                yield Token(token, released, logprob)
                if last or text.stopped:
                    return
                if not chosen:
                    left_to_write = request.max_tokens - produced
                    found = await _put(model, sequence, [token], left_to_write, logits=not greedy)
                    chosen.extend(found.chosen)


async def score(model: Model, ids: list[int]) -> Floats:
    """float32 [n-1]: the log-probability of each token after the first, given those before it."""
    scores = np.empty(len(ids) - 1, np.float32)
    async with model.in_use():
        with model.lend([], reuse=False) as sequence:
            for start in range(0, len(scores), SCORE_CHUNK):
                # the last token has no successor, so its own logits are not needed
                chunk = ids[start : min(start + SCORE_CHUNK, len(scores))]
                end = start + len(chunk)
                await sequence.make_room(end, rows=len(chunk), own=True)
                workspace = sequence.workspace
                positions = np.arange(start, end, dtype=np.int32)
                workspace.begin(
                    np.array(chunk, np.int32), positions, [sequence.table] * len(chunk), tail=len(chunk)
                )
                with sequence.pinned():
                    await step(model.program, workspace)
                sequence.extend(chunk)
                _, log_sums = workspace.summaries
                scores[start:end] = (
                    workspace.logits[np.arange(len(chunk)), ids[start + 1 : end + 1]] - log_sums
                )
                del workspace, log_sums  # or the buffers would stay when they are taken
    return scores


async def _put(
    model: Model, sequence: Sequence, tokens: list[int], to_write: int, *, logits: bool
) -> Advance:
    """Put tokens behind what the sequence holds, in as many steps as it takes. What follows the last of them
    is in the result, and with `logits` in the sequence's. `to_write` tokens are to be written from now on.
    """
    at = 0
    while True:
        chunk = tokens[at : at + CHUNK]
        left = len(tokens) - at
        current_job().predict(model.pace.left_s(left if left > 1 else 0, to_write))
        length = len(sequence.tokens) + len(chunk)
        await sequence.make_room(length, rows=len(chunk), logits=logits)
        row = sequence.logits if logits else None
        more = 0 if logits else min(to_write - 1, model.context - length)
        with sequence.pinned():
            done = await advance(Part(model, sequence, chunk, left == len(chunk), row, more))
        sequence.extend(chunk[: done.taken])
        at += done.taken
        if at == len(tokens):
            sequence.extend([token for token, _ in done.chosen[:-1]])
            return done
