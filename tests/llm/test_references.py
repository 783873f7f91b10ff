"""The default model against llama.cpp's outputs: tokens where the margin is clear, and perplexity."""

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from coro_rt import QoS, open_runtime, qos

DATA = Path(__file__).parent.parent / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "smollm2-greedy.json").read_text())["cases"]

pytestmark = pytest.mark.model


async def forced(path: Path) -> list[list[int]]:
    """Our best token at each of llama.cpp's positions, fed with llama.cpp's tokens."""
    best = []
    async with open_runtime() as runtime, await runtime.load_model(path) as llm:
        for case in CASES:
            row = []
            for at in range(len(case["tokens"])):
                prompt = case["prompt_tokens"] + case["tokens"][:at]
                async with llm.generate(prompt, max_tokens=1, ignore_eos=True) as stream:
                    row += [token.id async for token in stream]
            best.append(row)
    return best


def test_the_best_token_is_llama_cpps_wherever_the_margin_is_clear(model_path: Path) -> None:
    best = anyio.run(forced, model_path)
    clear = [
        (case["prompt"], at, case["tokens"][at], ours[at])
        for case, ours in zip(CASES, best, strict=True)
        for at, margin in enumerate(case["margins"])
        if margin >= 0.3
    ]
    assert len(clear) > 300
    assert [one for one in clear if one[2] != one[3]] == []


async def free(path: Path) -> list[list[int]]:
    async with open_runtime() as runtime, await runtime.load_model(path) as llm:
        runs = []
        for case in CASES:
            async with llm.generate(case["prompt_tokens"], max_tokens=8, ignore_eos=True) as stream:
                runs.append([token.id async for token in stream])
        return runs


def test_the_first_eight_tokens_are_llama_cpps_in_eight_cases_of_ten(model_path: Path) -> None:
    runs = anyio.run(free, model_path)
    assert sum(run == case["tokens"][:8] for run, case in zip(runs, CASES, strict=True)) >= 8


async def scores(path: Path, tokens: list[int]) -> np.ndarray:
    async with open_runtime() as runtime, await runtime.load_model(path) as llm:
        return await llm.score(tokens)


def test_perplexity_is_llama_cpps_within_one_percent(model_path: Path) -> None:
    expected = json.loads((DATA / "smollm2-perplexity.json").read_text())
    logprobs = anyio.run(scores, model_path, expected["tokens"])
    assert logprobs.dtype == np.float32
    assert logprobs.shape == (len(expected["tokens"]) - 1,)
    assert np.exp(-logprobs.mean()) == pytest.approx(expected["perplexity"], rel=0.01)


async def drawn(path: Path, threads: int, background: int) -> list[list[int]]:
    """Two answers, greedy and drawn, beside `background` jobs that read and write without a pause."""
    answers = []
    async with open_runtime(threads=threads) as runtime, await runtime.load_model(path) as llm:

        async def disturb(prompt: list[int]) -> None:
            while True:
                async with llm.generate(prompt, max_tokens=20, ignore_eos=True) as stream:
                    async for _ in stream:
                        pass

        async with anyio.create_task_group() as group:
            with qos(QoS.BACKGROUND):
                for nth in range(background):
                    group.start_soon(disturb, list(range(nth, nth + 300)))
            await anyio.sleep(0.1 if background else 0)
            for options in ({}, {"temperature": 0.8, "top_p": 0.95, "seed": 7}):
                async with llm.chat("Why is the sky blue?", max_tokens=40, **options) as stream:
                    answers.append([token.id async for token in stream])
            group.cancel_scope.cancel()
    return answers


def test_tokens_do_not_depend_on_host_threads_or_company(model_path: Path) -> None:
    expected = anyio.run(drawn, model_path, 1, 0)
    assert expected[0] != expected[1]
    hosts: list[tuple[str, dict[str, bool]]] = [
        ("trio", {}),
        ("asyncio", {}),
        ("asyncio", {"use_uvloop": True}),
    ]
    for backend, options in hosts:
        for threads in (1, 2):
            for background in (0, 4):
                got = anyio.run(
                    drawn, model_path, threads, background, backend=backend, backend_options=options
                )
                assert got == expected, (backend, options, threads, background)
