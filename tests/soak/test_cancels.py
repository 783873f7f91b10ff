"""Generations cancelled at random moments leave no job, no thread and no memory behind, and change no later
answer.

The soak counts: 10,000 cancels on each loop, one at a time and by whole scopes, at least 500 of them at each
stage. The small test runs the same code with the other tests.
"""

from __future__ import annotations

import gc
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from soak_cancels import STAGES, Stage, answer, cancel_at_close, cancel_many, nothing_left

import coro_rt

SEED = 20_260_101


def report(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n  {line}", flush=True)


def table(counted: Counter[Any]) -> str:
    return ", ".join(f"{count} {key.value}" for key, count in counted.items())


@pytest.mark.model
@pytest.mark.anyio
async def test_a_few_cancels_at_every_stage_leave_nothing_behind(model_path: Path) -> None:
    cancels = await cancel_many(model_path, seed=SEED, each=14, check_every=20)
    assert min(cancels.counted[stage] for stage in STAGES) >= 14


@pytest.mark.model
@pytest.mark.anyio
async def test_leaving_a_runtime_with_generations_under_way_leaves_nothing_behind(model_path: Path) -> None:
    seen = Counter[Stage]()
    for seed in range(3):
        seen += await cancel_at_close(model_path, seed=SEED + seed)
    assert seen.total() > 0


@pytest.mark.soak
@pytest.mark.anyio
async def test_ten_thousand_cancels_leave_nothing_behind(
    model_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend: Any
) -> None:
    at_close = Counter[Stage]()
    seed, runtimes = SEED, 0
    while at_close.total() < 500:
        at_close += await cancel_at_close(model_path, seed=seed)
        seed, runtimes = seed + 1, runtimes + 1
    cancels = await cancel_many(model_path, seed=SEED, each=500, total=10_000 - at_close.total())
    counted = cancels.counted
    counted[Stage.CLOSE] = at_close.total()
    report(capsys, f"{anyio_backend}: {table(counted)}; by {table(cancels.ways)}")
    report(capsys, f"at close of {runtimes} runtimes: {table(at_close)}")
    counts = [counted[stage] for stage in (*STAGES, Stage.CLOSE)]
    assert min(counts) >= 500
    assert sum(counts) >= 10_000


@pytest.mark.soak
@pytest.mark.anyio
async def test_streams_that_are_left_dropped_or_lost_in_cycles_end_their_jobs(
    model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    done = Counter[str]()
    async with coro_rt.open_runtime() as runtime, await runtime.load_model(model_path) as llm:
        undisturbed = await answer(llm)
        weights = runtime.memory.used
        for turn in range(300):
            fate = rng.choice((left_by_break, left_by_error, closed_late, dropped, lost_in_a_cycle))
            prompt = [rng.randrange(40_000) for _ in range(rng.choice((3, 30, 200)))]
            await fate(llm, prompt, rng.randint(1, 6))
            done[fate.__name__] += 1
            if turn % 20 == 19:
                await quiet(runtime)
                nothing_left(runtime, weights)
                assert await answer(llm) == undisturbed, "the next answer is another one"
    assert runtime.memory.used == 0
    report(capsys, f"streams: {', '.join(f'{count} {name}' for name, count in done.items())}")


async def take(stream: Any, tokens: int) -> None:
    async for _ in stream:
        tokens -= 1
        if not tokens:
            break


async def left_by_break(llm: Any, prompt: list[int], tokens: int) -> None:
    async with llm.generate(prompt, max_tokens=100, ignore_eos=True) as stream:
        await take(stream, tokens)


async def left_by_error(llm: Any, prompt: list[int], tokens: int) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with llm.generate(prompt, max_tokens=100, ignore_eos=True) as stream:
            await take(stream, tokens)
            raise ZeroDivisionError


async def closed_late(llm: Any, prompt: list[int], tokens: int) -> None:
    stream = llm.generate(prompt, max_tokens=100, ignore_eos=True)
    await take(stream, tokens)
    await answer(llm, 4)
    await stream.aclose()


async def dropped(llm: Any, prompt: list[int], tokens: int) -> None:
    stream = llm.generate(prompt, max_tokens=100, ignore_eos=True)
    await take(stream, tokens)
    with pytest.warns(ResourceWarning, match="was dropped before its end"):  # noqa: PT031
        del stream
        gc.collect()


async def lost_in_a_cycle(llm: Any, prompt: list[int], tokens: int) -> None:
    stream = llm.generate(prompt, max_tokens=100, ignore_eos=True)
    await take(stream, tokens)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    with warnings.catch_warnings():  # when it is collected is the collector's affair
        warnings.simplefilter("ignore", ResourceWarning)
        del stream, cycle
        gc.collect()


async def quiet(runtime: coro_rt.Runtime) -> None:
    """Dropped streams end without anybody waiting for them: let that happen, within a generous limit."""
    with anyio.move_on_after(30):
        while (stats := runtime.stats()).jobs_ready + stats.jobs_running + stats.jobs_waiting:  # noqa: ASYNC110
            await anyio.sleep(0.001)
