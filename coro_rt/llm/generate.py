"""The jobs of a language model: generating tokens, and scoring a text.

A prompt is read in chunks; then each token is one row. Chunks and rows of several jobs may share a step of
the model (`step.py`), which the worker may suspend after any chunk of work and go on with later. Where that
is, the job's seat knows (`seat.py`). What a job holds (pages, buffers) it gives back in `finally`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coro_rt.errors import DeviceLost, ModelError
from coro_rt.kernels.formats import Floats
from coro_rt.traps import current_job

from .chooser import Wanted
from .places import Places, Route, go_to
from .request import Request
from .sampling import Sampler
from .seat import Lender, Seat
from .step import step
from .text import TextStream

if TYPE_CHECKING:
    from .decoder import Model

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


async def generate(
    places: Places, request: Request, lender: Lender, route: Route
) -> AsyncGenerator[Token, None]:
    """Stream tokens after `request.prompt`; what the lent sequence shares with the prompt is not computed
    again.

    Sets the stream's `usage` and its `finish_reason`: "stop" or "length". DeviceLost only if there is nowhere
    to go on.
    """
    outlet = current_job().outlet
    assert outlet is not None, "generate streams"
    model, prompt, sampling = places.first, request.prompt, request.sampling
    greedy = sampling.temperature == 0 and sampling.repetition_penalty == 1
    sampler = None if greedy else Sampler(sampling)
    text = TextStream(model.tokenizer.bytes_after(prompt[-1]), request.stop)
    history = list(prompt)
    answer: list[str] = []
    limit = len(prompt) + request.max_tokens - 1
    with lender.turn(answer):
        async with Seat(places, route, lender, limit, logits=not greedy) as seat:
            await seat.begin(history, request.max_tokens)
            outlet.usage = Usage(len(prompt), 0, seat.reused)
            chosen: deque[tuple[int, float]] = deque()
            for produced in range(1, request.max_tokens + 1):
                left_to_write = request.max_tokens - produced + 1
                token, logprob = await _next(seat, chosen, history, left_to_write, sampler)
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
                outlet.usage = Usage(len(prompt), produced, seat.reused)
                outlet.finish_reason = "stop" if text.stopped else "length" if last else None
                yield Token(token, released, logprob)
                if last or text.stopped:
                    return


async def _next(
    seat: Seat, chosen: deque[tuple[int, float]], history: list[int], to_write: int, sampler: Sampler | None
) -> tuple[int, float]:
    """The token that follows, with the logarithm of its probability. `chosen`: what a step has given beyond
    the last one. Without a sampler it is the most probable.
    """
    while True:
        if not chosen:
            found = await seat.advance(history, to_write)
            chosen.extend(found.chosen)
        token, logprob = chosen.popleft()
        try:
            if sampler is not None:
                token = sampler.sample(seat.logits, history, len(history))
                logprob = float(seat.logits[token] - found.log_sum)
            elif not math.isfinite(logprob):  # the best of NaN is no token
                raise ModelError(f"the logits at position {len(history)} are not numbers")
        except ModelError as error:
            chosen.clear()
            await seat.distrust(error, history, to_write)
        else:
            return token, logprob


async def score(places: Places, ids: list[int], place: str) -> Floats:
    """float32 [n-1]: the log-probability of each token after the first, given those before it. From the
    beginning elsewhere, if the device is lost.
    """
    gone: set[str] = set()
    while True:
        model: Model | None = None
        try:
            await go_to(place)
            model = places.model(place)
            return await _score(model, ids)
        except DeviceLost as lost:
            gone |= {place, lost.device}
            place = places.elsewhere(lost, Wanted(len(ids), len(ids), 0), gone)
            if model is not None:
                places.drop(model, lost)


async def _score(model: Model, ids: list[int]) -> Floats:
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
