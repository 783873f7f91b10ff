"""The jobs of a language model: generating tokens, and scoring a text.

A prompt is read in chunks, each one step of the model; then each token is one step. A step is a launch of
`step`, so the worker may suspend it after any chunk of work and go on later. What a job holds (pages,
buffers) it gives back in `finally`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Tokens
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coro_rt.kernel import Kernel
from coro_rt.kernels.formats import Floats
from coro_rt.kernels.gang import Outcome
from coro_rt.kernels.operations import Steps
from coro_rt.traps import current_job

from .request import Request
from .sampling import Sampler
from .sequence import Sequence
from .text import TextStream

if TYPE_CHECKING:
    from .model import Model

PREFILL_CHUNK = 128
"""Tokens of a prompt in one step: enough to reuse each weight many times, and buffers of a few megabytes."""

SCORE_CHUNK = 32
"""The same when every token's logits are wanted, which take 4 bytes for each word of the vocabulary."""


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


step: Kernel[[Any, Steps], None] = Kernel("llm.step")
"""One step of a model: its program, and a workspace, both of the device's kind."""


@step.on("cpu")
def _step_on_cpu(device: Any, launch: Any, slice_s: float) -> bool:
    program, workspace = launch.args
    end_ns = time.monotonic_ns() + int(slice_s * 1e9)
    return device.gang.run(program, workspace, end_ns=end_ns) is Outcome.DONE


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
    with model.counted(), lender.lend(answer) as sequence:
        reused = sequence.keep_prefix(prompt)
        outlet.usage = Usage(len(prompt), 0, reused)
        with model.workspace(min(len(prompt) - reused, PREFILL_CHUNK)) as workspace:
            await _read(model, sequence, prompt[reused:], workspace, request.max_tokens)
            for produced in range(1, request.max_tokens + 1):
                best, log_sum = workspace.summaries
                # argmax of NaN is no token: the sampler looks, and says so
                sure = greedy and np.isfinite(log_sum[0])
                token = int(best[0]) if sure else sampler.sample(workspace.logits[0], history, len(history))
                logprob = workspace.logprob(0, token)
                if token in model.tokenizer.eos_ids and not request.ignore_eos:
                    left = text.flush()
                    answer.append(left)
                    if left:  # what waited for its other half, or might have begun a stop string
                        yield Token(token, left, logprob)
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
                current_job().predict(model.pace.seconds(0, request.max_tokens - produced))
                await _advance(model, sequence, [token], workspace, tail=1)


async def score(model: Model, ids: list[int]) -> Floats:
    """float32 [n-1]: the log-probability of each token after the first, given those before it."""
    scores = np.empty(len(ids) - 1, np.float32)
    rows = min(len(ids), SCORE_CHUNK)
    with model.counted(), model.lend([]) as sequence, model.workspace(rows, every_token=True) as workspace:
        for start in range(0, len(scores), SCORE_CHUNK):
            # the last token has no successor, so its own logits are not needed
            chunk = ids[start : min(start + SCORE_CHUNK, len(scores))]
            await _advance(model, sequence, chunk, workspace, tail=len(chunk))
            following = ids[start + 1 : start + 1 + len(chunk)]
            _, log_sums = workspace.summaries
            scores[start : start + len(chunk)] = workspace.logits[np.arange(len(chunk)), following] - log_sums
    return scores


async def _read(
    model: Model, sequence: Sequence, tokens: Tokens[int], workspace: Steps, to_write: int
) -> None:
    """Read a prompt, chunk by chunk; logits of its last token only. `to_write` tokens will follow."""
    for start in range(0, len(tokens), PREFILL_CHUNK):
        chunk = tokens[start : start + PREFILL_CHUNK]
        current_job().predict(model.pace.seconds(len(tokens) - start, to_write))
        await _advance(model, sequence, chunk, workspace, tail=int(start + len(chunk) == len(tokens)))


async def _advance(
    model: Model, sequence: Sequence, tokens: Tokens[int], workspace: Steps, *, tail: int
) -> None:
    """One step: put `tokens` after what the sequence holds."""
    start, entry = len(sequence.tokens), current_job().entry
    sequence.make_room(start + len(tokens))
    positions = np.arange(start, start + len(tokens), dtype=np.int32)
    workspace.begin(np.array(tokens, np.int32), positions, [sequence.table] * len(tokens), tail=tail)
    before = entry.served_s
    await step(model.program, workspace)
    model.pace.learn(len(tokens), entry.served_s - before)
    sequence.tokens.extend(tokens)
