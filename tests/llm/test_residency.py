"""Generations that do not fit into the budget together: parked, resumed to the bit, cancelled; and prompts
that begin alike.
"""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tiny import Tiny

from coro_rt import QoS, Runtime, open_runtime, qos
from coro_rt.errors import MemoryBudgetExceeded
from coro_rt.llm.generate import Token
from coro_rt.llm.model import LLM, load_model

pytestmark = pytest.mark.anyio

PAGE = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small steps and large pages, so that pages are what matters."""
    tiny = Tiny(
        form="Q4_1", hidden=64, feed_forward=64, heads=2, kv_heads=2, head_size=32, layers=24, context=512
    )
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@asynccontextmanager
async def opened(
    path: Path, pages: float, *, area: int = 0, **options: Any
) -> AsyncIterator[tuple[Runtime, LLM]]:
    """A runtime with room for the model and so many pages, and `area` pages to park in; empty at the end.

    Reading a prompt takes buffers of two pages' size.
    """
    async with open_runtime(threads=1) as unlimited, await load_model(unlimited, path) as llm:
        model = llm._open()
        one = model.sizes.kv.page_bytes
        budget = unlimited.memory.used + int((pages + area) * one)
    async with open_runtime(threads=1, memory=budget, parking=area * one, **options) as runtime:
        async with await load_model(runtime, path) as llm:
            loaded = runtime.memory.used
            yield runtime, llm
            assert runtime.memory.used == loaded, "a job kept memory"
            check(runtime)
        assert runtime.memory.used == area * one
    assert runtime.stats().memory.held == 0


def check(runtime: Runtime) -> None:
    """What is held adds up, and nothing is parked any more."""
    use = runtime.stats().memory
    parts = (use.weights, use.pages, use.cached, use.workspaces, use.parking, use.other)
    assert sum(parts) == use.held <= (use.budget or use.held)
    assert (use.pages, use.workspaces, use.shared, use.parked_in_area, use.parked_on_file) == (0, 0, 0, 0, 0)
    assert runtime._residency.pages.cached == runtime.memory.spare
    assert not runtime._residency._asks


async def ids(llm: LLM, prompt: list[int], tokens: int = 40, **options: Any) -> list[int]:
    async with llm.generate(prompt, max_tokens=tokens, ignore_eos=True, **options) as stream:
        return [token.id async for token in stream]


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(200) for _ in range(length)] for _ in range(count)]


async def test_sequences_that_do_not_fit_together_run_after_each_other_with_the_same_tokens(
    anyio_backend: object, path: Path
) -> None:
    asked = prompts(12, 100)
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        alone = [await ids(llm, prompt) for prompt in asked]
    async with opened(path, pages=6) as (runtime, llm):
        got: dict[int, list[int]] = {}

        async def one(nth: int) -> None:
            got[nth] = await ids(llm, asked[nth])

        async with anyio.create_task_group() as group:
            for nth in range(len(asked)):
                group.start_soon(one, nth)
        assert [got[nth] for nth in range(len(asked))] == alone


LONG = [5 + nth * 11 % 190 for nth in range(250)]  # four pages, and 250 tokens more make eight
OTHER = [7 + nth * 13 % 190 for nth in range(200)]


@pytest.mark.parametrize(("area", "to"), [(0, "file"), (1, "area and file"), (9, "area")])
async def test_an_urgent_job_parks_background_work_which_goes_on_to_the_bit(
    anyio_backend: object, path: Path, area: int, to: str
) -> None:
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        alone = [await ids(llm, LONG, 250), await ids(llm, OTHER, 200)]
    async with opened(path, pages=8.5, area=area) as (runtime, llm):
        with qos(QoS.BACKGROUND):
            stream = llm.generate(LONG, max_tokens=250, ignore_eos=True)
            got = [(await stream.__anext__()).id]
        with qos(QoS.USER_INTERACTIVE):
            async with llm.generate(OTHER, max_tokens=200, ignore_eos=True) as asked:
                answer = [(await asked.__anext__()).id for _ in range(130)]  # six pages at least
                use = runtime.stats().memory
                assert (use.parked_in_area > 0) == ("area" in to)
                assert (use.parked_on_file > 0) == ("file" in to)
                answer += [token.id async for token in asked]
        got += [token.id async for token in stream]
        assert [got, answer] == alone
        assert runtime._residency.parkings > 0


async def test_a_parked_generation_that_is_cancelled_leaves_nothing_behind(
    anyio_backend: object, path: Path
) -> None:
    async with opened(path, pages=8.5, area=1) as (runtime, llm):
        with qos(QoS.BACKGROUND):
            stream = llm.generate(LONG, max_tokens=250, ignore_eos=True, temperature=0.5)
            await stream.__anext__()
        with qos(QoS.USER_INTERACTIVE):
            async with llm.generate(OTHER, max_tokens=200, ignore_eos=True) as asked:
                for _ in range(130):
                    await asked.__anext__()
                assert runtime.stats().memory.parked_on_file > 0
                await stream.aclose()
                async for _ in asked:  # whose own pages may be parked while nobody reads it
                    pass
        use = runtime.stats().memory
        assert (use.parked_in_area, use.parked_on_file) == (0, 0)


async def test_a_job_whose_reader_is_away_does_not_keep_others_from_its_memory(
    anyio_backend: object, path: Path
) -> None:
    first, second = prompts(2, 200)
    async with opened(path, pages=6) as (_, llm):
        async with llm.generate(first, max_tokens=60, ignore_eos=True) as stream:
            got = [(await stream.__anext__()).id]
            assert len(await ids(llm, second, 60)) == 60
            got += [token.id async for token in stream]
        assert got == await ids(llm, first, 60)


async def test_idle_conversations_are_parked_first_and_remember_everything(
    anyio_backend: object, path: Path
) -> None:
    async def talk(llm: LLM, disturb: Callable[[], Awaitable[object]]) -> list[str]:
        texts = []
        with llm.conversation(system="hello hello") as conversation:
            for question in ("hello" * 9, "he"):
                async with conversation.ask(question, max_tokens=40, ignore_eos=True) as stream:
                    texts.append("".join([token.text async for token in stream]))
                assert (stream.usage.reused_tokens > 0) == (len(texts) > 1)
                await disturb()
        return texts

    other = prompts(1, 150)[0]
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        alone = await talk(llm, anyio.lowlevel.checkpoint)
    async with opened(path, pages=7) as (runtime, llm):

        async def disturb() -> None:
            with qos(QoS.BACKGROUND):  # less urgent than the conversation was
                await ids(llm, other, 230)
            assert runtime.stats().memory.parked_on_file > 0

        assert await talk(llm, disturb) == alone


async def test_a_parked_conversation_is_closed_with_its_pages(anyio_backend: object, path: Path) -> None:
    async with opened(path, pages=6) as (runtime, llm):
        conversation = llm.conversation()
        async with conversation.ask("hello", max_tokens=40, ignore_eos=True) as stream:
            async for _ in stream:
                pass
        await ids(llm, prompts(1, 200)[0], 56)
        assert runtime.stats().memory.parked_on_file > 0
        conversation.close()


async def test_a_forgotten_conversation_gives_its_pages_back(anyio_backend: object, path: Path) -> None:
    async with opened(path, pages=9) as (_, llm):
        conversation = llm.conversation()
        async with conversation.ask("hello", max_tokens=10, ignore_eos=True) as stream:
            async for _ in stream:
                pass
        del conversation, stream
        for _ in range(100):
            await anyio.lowlevel.checkpoint()


async def test_what_can_never_fit_is_refused_at_once_and_what_fits_alone_is_served(
    anyio_backend: object, path: Path
) -> None:
    prompt = prompts(1, 60)[0]
    async with opened(path, pages=2.5) as (_, llm):
        with pytest.raises(MemoryBudgetExceeded, match=r"a sequence of 159 tokens needs .* ever be free"):
            llm.generate(prompt, max_tokens=100)
        assert len(await ids(llm, prompt, 60)) == 60


async def test_with_on_full_raise_a_newcomer_is_refused_and_who_has_begun_goes_on(
    anyio_backend: object, path: Path
) -> None:
    first, second = prompts(2, 100)
    async with opened(path, pages=4.5, on_full="raise") as (_, llm), anyio.create_task_group() as group:
        with qos(QoS.USER_INTERACTIVE):
            stream = llm.generate(first, max_tokens=150, ignore_eos=True)
            await stream.__anext__()

        async def read() -> None:
            assert len([token async for token in stream]) == 149

        group.start_soon(read)
        with qos(QoS.BACKGROUND), pytest.raises(MemoryBudgetExceeded, match="are free"):
            await ids(llm, second, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_with_cancels_at_any_moment_ends_and_leaves_nothing_behind(
    anyio_backend: object, path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    system = [rng.randrange(200) for _ in range(PAGE)]
    completed: list[int] = []
    async with opened(path, pages=9, area=2, max_wait_s=0.5) as (_, llm):
        plain = await ids(llm, system, 30)

        async def one() -> None:
            own = [rng.randrange(200) for _ in range(rng.randint(5, 300))]
            prompt = (system if rng.random() < 0.5 else []) + own
            with (
                qos(rng.choice([QoS.BACKGROUND, QoS.BACKGROUND, QoS.DEFAULT, QoS.USER_INTERACTIVE])),
                anyio.move_on_after(rng.choice([math.inf, rng.uniform(0, 0.1), rng.uniform(0, 1)])),
            ):
                completed.append(len(await ids(llm, prompt, rng.randint(1, 150))))

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(one)
        assert completed
        assert await ids(llm, system, 30) == plain


@pytest.mark.soak
async def test_a_thousand_parkings_change_no_token_and_no_probability(
    anyio_backend: object, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = prompts(10, 150)
    levels = [QoS.BACKGROUND, QoS.UTILITY, QoS.DEFAULT, QoS.USER_INITIATED, QoS.USER_INTERACTIVE]
    async with open_runtime(threads=2) as runtime, await load_model(runtime, path) as llm:
        alone = [(await answer(llm, prompt, 150))[0] for prompt in asked]
    rounds = 0
    async with opened(path, pages=9, area=2) as (runtime, llm):

        async def one(nth: int) -> None:
            with qos(levels[(nth + rounds) % len(levels)]):
                assert (await answer(llm, asked[nth], 150))[0] == alone[nth]

        while runtime._residency.parkings < 1000:
            async with anyio.create_task_group() as group:
                for nth in range(len(asked)):
                    group.start_soon(one, nth)
            rounds += 1
        parkings = runtime._residency.parkings
    with capsys.disabled():
        print(f"\n  {parkings} pieces parked in {rounds} rounds of {len(asked)} generations", flush=True)


async def test_workspaces_that_are_too_small_make_room_for_one_that_is_not(
    anyio_backend: object, path: Path
) -> None:
    """Else a job that needs the larger one, when all others are parked, would be told that it never fits."""
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        workspaces = llm._open().workspaces
        for workspace in [workspaces.lend(rows, 1) for rows in (32, 64)]:
            workspaces.give_back(workspace)
        held = runtime.stats().memory.workspaces
        assert workspaces.lacking(128) == workspaces.bytes_for(128)
        assert workspaces.spare_bytes(128) == held
        assert workspaces.spare_bytes(64) == held - workspaces.bytes_for(64)
        workspaces.trim(0)
        assert runtime.stats().memory.workspaces == 0


# Prefixes.


async def answer(llm: LLM, prompt: list[int], tokens: int = 30) -> tuple[list[Token], int]:
    """The tokens with their probabilities, to the bit, and how many of the prompt's were there already."""
    async with llm.generate(prompt, max_tokens=tokens, ignore_eos=True) as stream:
        return [token async for token in stream], stream.usage.reused_tokens


async def test_what_begins_alike_is_read_once(anyio_backend: object, path: Path) -> None:
    system, (one, other) = prompts(1, 140)[0], prompts(2, 20, seed=1)
    async with open_runtime(threads=1) as runtime:
        async with await load_model(runtime, path, prefix_reuse=False) as llm:
            alone = [await answer(llm, system + rest) for rest in (one, other, one)]
            assert runtime.stats().memory.cached == 0
        async with await load_model(runtime, path) as llm:
            shared = [await answer(llm, system + rest) for rest in (one, other, one)]
            assert runtime.stats().memory.cached > 0
        assert runtime.stats().memory.held == 0
    assert [reused for _, reused in alone] == [0, 0, 0]
    assert [reused for _, reused in shared] == [0, 2 * PAGE, 2 * PAGE]
    assert [tokens for tokens, _ in shared] == [tokens for tokens, _ in alone]


async def test_the_last_token_of_a_prompt_is_always_read(anyio_backend: object, path: Path) -> None:
    prompt = prompts(1, 2 * PAGE)[0]
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        first, again = await answer(llm, prompt), await answer(llm, prompt)
        assert (first[1], again[1]) == (0, PAGE)
        assert first[0] == again[0]


async def test_sequences_at_the_same_time_share_the_pages_of_their_prefix(
    anyio_backend: object, path: Path
) -> None:
    system = prompts(1, 3 * PAGE)[0]
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        page = llm._open().sizes.kv.page_bytes
        streams = [llm.generate([*system, nth], max_tokens=200, ignore_eos=True) for nth in range(4)]
        for stream in streams:
            await stream.__anext__()
        assert runtime.stats().memory.shared == 3 * 3 * page
        for stream in streams:
            await stream.aclose()
        assert runtime.stats().memory.shared == 0


async def test_pages_that_two_have_computed_become_one(anyio_backend: object, path: Path) -> None:
    prompt = prompts(1, 40)[0]
    async with open_runtime(threads=1) as runtime, await load_model(runtime, path) as llm:
        page = llm._open().sizes.kv.page_bytes
        streams = [llm.generate(prompt, max_tokens=200, ignore_eos=True) for _ in range(3)]
        got = [[(await stream.__anext__()) for _ in range(30)] for stream in streams]
        assert runtime.stats().memory.shared >= 2 * page
        for nth, stream in enumerate(streams):
            got[nth] += [token async for token in stream]
        assert got[0] == got[1] == got[2]
