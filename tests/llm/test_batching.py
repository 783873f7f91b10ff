"""Continuous batching: generations of one model share steps, and none can tell."""

import math
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from coro_rt import JobCancelled, QoS, Runtime, RuntimeClosed, open_runtime, qos
from coro_rt.llm.model import LLM
from coro_rt.llm.sequence import Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("step_by_step")]

ASKED = [
    (QoS.BACKGROUND, list(range(40)), {}),
    (QoS.BACKGROUND, list(range(7, 200)), {"temperature": 1.2, "seed": 3}),
    (QoS.UTILITY, [5, 6], {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}),
    (QoS.DEFAULT, list(range(130)), {}),
    (QoS.USER_INITIATED, [9] * 20, {"temperature": 1.0, "top_k": 20}),
    (QoS.USER_INTERACTIVE, [3, 1, 4, 1, 5], {}),
]


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
async def runtime(anyio_backend: object, request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    async with open_runtime(threads=request.param) as runtime:
        yield runtime


async def answer(
    llm: LLM, level: QoS, prompt: list[int], options: dict[str, float]
) -> list[tuple[int, float]]:
    with qos(level):
        async with llm.generate(prompt, max_tokens=50, ignore_eos=True, **options) as stream:
            return [(token.id, token.logprob) async for token in stream]


async def test_tokens_and_log_probabilities_are_those_of_each_alone(runtime: Runtime, llm: LLM) -> None:
    alone = [await answer(llm, *asked) for asked in ASKED]
    assert runtime.stats().rides == 0
    rng = random.Random(1)

    async def again(which: int) -> None:
        for _ in range(3):
            await anyio.sleep(rng.uniform(0, 0.02))
            assert await answer(llm, *ASKED[which]) == alone[which]

    async with anyio.create_task_group() as group:
        for which in [*range(len(ASKED)), 0, 1]:
            group.start_soon(again, which)
    stats = runtime.stats()
    assert stats.rides > stats.joint_launches > 50


async def urgent(runtime: Runtime, llm: LLM) -> None:
    """Short asks that interrupt whatever is going on, again and again."""
    with qos(QoS.USER_INTERACTIVE):
        while True:
            await answer(llm, QoS.USER_INTERACTIVE, [7] * 9, {})
            await anyio.sleep(0.001)


async def test_preempted_and_cancelled_at_random_every_text_is_as_it_would_be_alone(
    runtime: Runtime, llm: LLM
) -> None:
    alone = [await answer(llm, *asked) for asked in ASKED]
    rng = random.Random(2)
    whole = 0

    async def again(which: int) -> None:
        nonlocal whole
        for _ in range(6):
            level, prompt, options = ASKED[which]
            texts = []
            with anyio.move_on_after(rng.choice((0.0, 0.01, 0.05, math.inf))), qos(level):
                async with llm.generate(prompt, max_tokens=50, ignore_eos=True, **options) as stream:
                    async for token in stream:
                        texts.append((token.id, token.logprob))
            assert texts == alone[which][: len(texts)]
            whole += len(texts) == 50

    async with anyio.create_task_group() as group:
        group.start_soon(urgent, runtime, llm)
        async with anyio.create_task_group() as asking:
            for which in range(len(ASKED)):
                asking.start_soon(again, which)
        group.cancel_scope.cancel()
    assert whole > 6
    assert runtime.stats().rides > 0


async def test_a_step_for_which_memory_is_short_takes_fewer_along(
    anyio_backend: object, tiny_path: Path
) -> None:
    async with open_runtime() as runtime, await runtime.load_model(tiny_path) as llm:
        weights = runtime.memory.used
        alone = [await answer(llm, QoS.BACKGROUND, [nth, 1], {}) for nth in range(4)]
    one_page, step = 32_768, 60_000
    async with open_runtime(memory=weights + 4 * one_page + step) as runtime:
        async with await runtime.load_model(tiny_path) as llm:
            found: list[list[tuple[int, float]]] = [[] for _ in range(4)]

            async def ask(nth: int) -> None:
                found[nth] = await answer(llm, QoS.BACKGROUND, [nth, 1], {})

            async with anyio.create_task_group() as group:
                for nth in range(4):
                    group.start_soon(ask, nth)
            assert found == alone
            assert runtime.memory.used == weights
        assert runtime.memory.used == 0


async def test_closing_the_model_while_generations_share_steps_gives_everything_back(
    runtime: Runtime, tiny_path: Path
) -> None:
    llm = await runtime.load_model(tiny_path)

    async def read(nth: int) -> None:
        with suppress(RuntimeClosed, JobCancelled):
            while True:
                async with llm.generate([nth] * 5, max_tokens=250, ignore_eos=True) as stream:
                    async for _ in stream:
                        pass

    async with anyio.create_task_group() as group:
        for nth in range(5):
            group.start_soon(read, nth)
        while not runtime.stats().rides:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        await llm.aclose()
        assert runtime.memory.used == 0


async def test_a_sequence_is_pinned_while_a_step_has_rows_of_it_and_no_longer(
    runtime: Runtime, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    room = Sequence.make_room

    async def make_room(self: Sequence, length: int, rows: int, **options: bool) -> None:
        seen.append(self.pins)
        await room(self, length, rows, **options)

    monkeypatch.setattr(Sequence, "make_room", make_room)

    async def talk(after: float) -> None:
        with qos(QoS.BACKGROUND), llm.conversation() as conversation:
            with anyio.move_on_after(after):
                async with conversation.ask("hello", max_tokens=100, ignore_eos=True) as stream:
                    async for _ in stream:
                        pass
            assert conversation._sequence is not None
            assert not conversation._sequence.pins

    async with anyio.create_task_group() as group:
        for nth in range(8):
            group.start_soon(talk, 0.004 * nth)
        group.start_soon(talk, 60)
    assert seen
    assert not any(seen)


async def test_conversations_scores_and_generations_at_once_disturb_nobody(
    runtime: Runtime, llm: LLM
) -> None:
    async def talk() -> list[list[int]]:
        with llm.conversation() as conversation:
            said = []
            for question in ("hello", "hell", "hello hello"):
                async with conversation.ask(question, max_tokens=9, ignore_eos=True) as stream:
                    said.append([token.id async for token in stream])
            return said

    talked = await talk()
    scored = (await llm.score(list(range(100)))).tolist()
    written = await answer(llm, *ASKED[1])

    async def check() -> None:
        assert await talk() == talked
        assert (await llm.score(list(range(100)))).tolist() == scored
        assert await answer(llm, *ASKED[1]) == written

    async with anyio.create_task_group() as group:
        for level in (QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INTERACTIVE):
            with qos(level):
                group.start_soon(check)
                group.start_soon(check)
