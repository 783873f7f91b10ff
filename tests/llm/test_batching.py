"""Continuous batching: generations of one model share steps, and none can tell."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.llm.model import LLM

pytestmark = pytest.mark.anyio

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


@pytest.fixture
async def llm(runtime: Runtime, tiny_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_path) as llm:
        weights = runtime.memory.used
        yield llm
        assert runtime.memory.used == weights, "a job kept memory"
    assert runtime.memory.used == 0


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
