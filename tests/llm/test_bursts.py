"""Bursts: a few tokens at a time without Python in between, the same tokens as one by one."""

from collections.abc import AsyncIterator

import anyio
import pytest

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.llm.model import LLM
from coro_rt.llm.turnaround import Turnaround

pytestmark = pytest.mark.anyio

PROMPTS = [[3, 1, 4, 1, 5], list(range(40)), [9] * 70]


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
async def runtime(anyio_backend: object, request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    async with open_runtime(threads=request.param) as runtime:
        yield runtime


async def answer(llm: LLM, prompt: list[int], **options: object) -> list[tuple[int, float]]:
    async with llm.generate(prompt, max_tokens=90, **{"ignore_eos": True, **options}) as stream:
        return [(token.id, token.logprob) async for token in stream]


async def one_by_one(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, float]]]:
    """What the model says to each prompt without bursts; from then on there are long ones."""
    monkeypatch.setattr("coro_rt.llm.turnaround.PART", 0)
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.0)
    said = [await answer(llm, prompt) for prompt in PROMPTS]
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.1)
    return said


async def test_tokens_and_log_probabilities_are_those_of_single_steps(
    runtime: Runtime, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = await one_by_one(llm, monkeypatch)
    before = runtime.stats().decisions
    assert [await answer(llm, prompt) for prompt in PROMPTS] == want
    singly = len(PROMPTS) * 90
    assert runtime.stats().decisions - before < 2 * singly, "they were made one by one"

    together: dict[int, list[tuple[int, float]]] = {}

    async def ask(nth: int, level: QoS) -> None:
        with qos(level):
            together[nth] = await answer(llm, PROMPTS[nth])

    async with anyio.create_task_group() as tasks:
        for nth, level in enumerate((QoS.BACKGROUND, QoS.BACKGROUND, QoS.USER_INTERACTIVE)):
            tasks.start_soon(ask, nth, level)
    assert [together[nth] for nth in range(len(PROMPTS))] == want


async def test_cancelled_in_the_middle_of_a_burst_it_gives_everything_back(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = await one_by_one(llm, monkeypatch)
    for after in range(0, 60, 3):
        made = []
        async with llm.generate(PROMPTS[1], max_tokens=90, ignore_eos=True) as stream:
            async for token in stream:
                made.append((token.id, token.logprob))
                if len(made) > after:
                    break
        assert made == want[1][: after + 1]


async def test_a_burst_ends_with_the_text(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    want = await one_by_one(llm, monkeypatch)
    eos = min(llm._open().tokenizer.eos_ids)
    monkeypatch.setattr(llm._open(), "ends", llm._open().ends[:0])
    biased = [token for token, _ in want[0]]
    end = biased[20]
    monkeypatch.setattr(llm._open().tokenizer, "eos_ids", frozenset({eos, end}))
    said = await answer(llm, PROMPTS[0], ignore_eos=False)
    assert [token for token, _ in said] == biased[: biased.index(end)]


async def test_a_conversation_goes_on_after_a_burst(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    await one_by_one(llm, monkeypatch)
    with llm.conversation() as conversation:
        for question in ("hello", "hell", "hello"):
            messages = [*conversation.messages, {"role": "user", "content": question}]
            async with conversation.ask(question, max_tokens=20, ignore_eos=True) as stream:
                text = "".join([token.text async for token in stream])
            async with llm.chat(messages, max_tokens=20, ignore_eos=True) as fresh:
                assert "".join([token.text async for token in fresh]) == text
        assert stream.usage.reused_tokens > 0


def test_a_burst_is_longer_where_the_lock_is_hard_to_get() -> None:
    turnaround = Turnaround()
    assert turnaround.steps(0.0025, 0.1) == 4
    assert turnaround.steps(0.05, 0.1) == 1
    assert turnaround.steps(0.0025, 0.002) == 1, "a slice is not to be overrun by much"
    turnaround.waited_s = 0.005
    assert turnaround.steps(0.0025, 0.1) == 40
