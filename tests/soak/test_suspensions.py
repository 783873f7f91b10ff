"""Steps that are suspended in the middle, again and again, with company that changes: no text is another one.

The soak counts at least 1,000 suspensions in the middle of a step. The small test runs the same code with the
other tests.
"""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

import coro_rt
from coro_rt import QoS, Stats, qos
from coro_rt.llm.model import LLM

SEED = 20_260_102

Text = list[tuple[int, float]]


async def text(llm: LLM, seed: int) -> Text:
    """The tokens and log-probabilities of a generation that `seed` decides on."""
    rng = random.Random(seed)
    prompt = [rng.randrange(40_000) for _ in range(rng.choice((2, 20, 200)))]
    tokens, temperature = rng.randint(1, 24), rng.choice((0.0, 1.0))
    async with llm.generate(
        prompt, max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True
    ) as stream:
        return [(token.id, token.logprob) async for token in stream]


async def disturbed(path: Path, *, threads: int, suspensions: int) -> Stats:
    """Generations of all levels at once, some given up halfway, interrupted until so many steps have been.
    Every text, or what there is of it, is compared with the one that was written alone.
    """
    rng = random.Random(SEED)
    seeds = range(12)
    async with coro_rt.open_runtime(threads=threads) as runtime, await runtime.load_model(path) as llm:
        weights = runtime.memory.used
        alone = [await text(llm, seed) for seed in seeds]

        async def write() -> None:
            while runtime.stats().suspensions < suspensions:
                seed = rng.choice(seeds)
                found: Text | None = None
                with qos(rng.choice(list(QoS))), anyio.move_on_after(rng.choice((0.02, 0.2, 60))):
                    found = await text(llm, seed)
                assert found is None or found == alone[seed]

        async def nothing() -> None:
            await coro_rt.checkpoint()

        async def interrupt() -> None:
            with qos(QoS.USER_INTERACTIVE):
                while True:
                    await anyio.sleep(rng.uniform(0, 0.008))
                    await runtime.run(nothing)

        async with anyio.create_task_group() as disturbing:
            disturbing.start_soon(interrupt)
            async with anyio.create_task_group() as writing:
                for _ in range(5):
                    writing.start_soon(write)
            disturbing.cancel_scope.cancel()
        assert runtime.memory.used == weights
        return runtime.stats()


@pytest.mark.model
@pytest.mark.anyio
async def test_a_few_suspensions_change_no_text(model_path: Path) -> None:
    stats = await disturbed(model_path, threads=2, suspensions=20)
    assert stats.rides > 0


@pytest.mark.soak
@pytest.mark.anyio
@pytest.mark.parametrize("threads", [1, 2])
async def test_a_thousand_suspensions_change_no_text(
    model_path: Path, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = await disturbed(model_path, threads=threads, suspensions=1000)
    with capsys.disabled():
        print(
            f"\n  {stats.suspensions} suspensions in the middle of a step; {stats.joint_launches} steps with "
            f"{stats.rides} riders",
            flush=True,
        )
    assert stats.joint_launches > 100
