"""One model on two devices: generations that begin, move and go on wherever they are sent, with the same
tokens. (Two devices on the CPU stand for any two: nothing that is computed on one is used on the other.)
"""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from choosers import Sent

from coro_rt import (
    DeviceError,
    JobCancelled,
    MemoryBudgetExceeded,
    QoS,
    Runtime,
    current_job,
    open_runtime,
    qos,
)
from coro_rt.devices.cpu import CpuDevice
from coro_rt.llm.chooser import Chooser
from coro_rt.llm.generate import Token
from coro_rt.llm.model import LLM
from coro_rt.llm.sequence import Sequence as TextSequence
from coro_rt.schedulers.entry import State

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("step_by_step")]

PROMPT = [int(token) for token in range(3, 163)]  # two chunks of a prompt
LATER = list(range(7, 100))
COUNT = 12

Options = dict[str, Any]
GREEDY: Options = {}
DRAWN: Options = {"temperature": 1.1, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 5}


def two() -> list[CpuDevice]:
    return [CpuDevice(name=name, threads=1) for name in "ab"]


@pytest.fixture
async def runtime(anyio_backend: object) -> AsyncIterator[Runtime]:
    async with open_runtime(devices=two()) as runtime:
        yield runtime
    assert runtime.memory.used == 0


@pytest.fixture
async def llm(runtime: Runtime, tiny_path: Path) -> AsyncIterator[LLM]:
    async with await runtime.load_model(tiny_path, devices=["a", "b"]) as llm:
        yield llm
        assert nothing_is_kept(runtime)
    assert runtime.stats().memory.held == 0


def nothing_is_kept(runtime: Runtime) -> bool:
    use = runtime.stats().memory
    return (use.pages, use.workspaces, use.shared) == (0, 0, 0)


async def said(llm: LLM, prompt: list[int] = PROMPT, **options: Any) -> list[Token]:
    async with llm.generate(prompt, **{"max_tokens": COUNT, "ignore_eos": True} | options) as stream:
        tokens = [token async for token in stream]
    assert stream.usage.prompt_tokens == len(prompt)
    assert stream.usage.completion_tokens == len(tokens)
    return tokens


@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "drawn"])
async def test_tokens_are_the_same_after_a_move_at_any_position(llm: LLM, options: Options) -> None:
    alone = await said(llm, **options)
    for at in range(len(PROMPT) + 1, len(PROMPT) + COUNT):
        llm.places.chooser = sent = Sent(lambda text, at=at: text == at)  # type: ignore[misc]
        assert await said(llm, **options) == alone
        stayed = at - len(PROMPT)
        assert sent.at == ["a"] * stayed + ["b"] * (COUNT - 1 - stayed)


@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "drawn"])
async def test_tokens_are_the_same_if_every_one_is_written_elsewhere(llm: LLM, options: Options) -> None:
    alone = await said(llm, **options)
    llm.places.chooser = sent = Sent(lambda text: True)
    assert await said(llm, **options) == alone
    assert sent.at == (["a", "b"] * COUNT)[: COUNT - 1]


async def test_it_begins_where_the_chooser_says_and_stays_by_default(runtime: Runtime, llm: LLM) -> None:
    alone = await said(llm)
    assert not runtime.stats().device_busy_s["b"]
    llm.places.chooser = Sent(lambda text: False, first="b")
    before = runtime.stats().device_busy_s["a"]
    assert await said(llm) == alone
    assert runtime.stats().device_busy_s["a"] == before
    with qos(QoS.BACKGROUND):
        assert await said(llm, device="a") == alone
    assert runtime.stats().device_busy_s["a"] > before


async def test_a_chooser_that_names_no_open_place_is_an_error(llm: LLM) -> None:
    class Lost(Chooser):
        def begin(self, *_: Any) -> tuple[str, None]:
            return "moon", None

    llm.places.chooser = Lost()
    with pytest.raises(DeviceError, match="Lost sent tiny to 'moon', but it can be sent to: a, b"):
        llm.generate(PROMPT)


@pytest.mark.parametrize("answer", ["moon", None, RuntimeError("out of ideas")], ids=str)
async def test_a_chooser_that_fails_under_way_is_replaced_and_costs_no_token(
    llm: LLM, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    class Failing(Chooser):
        def next(self, *_: Any) -> str:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    alone = await said(llm)
    llm.places.chooser = Failing()
    assert await said(llm) == alone
    assert type(llm.places.chooser) is Chooser
    assert "Failing of tiny was replaced by Chooser" in caplog.text


async def test_a_second_copy_is_loaded_when_it_is_first_wanted_and_shares_the_vocabulary(
    runtime: Runtime, llm: LLM
) -> None:
    before = runtime.stats().memory
    await said(llm)
    assert runtime.stats().memory.weights == before.weights
    assert [place.loaded for place in llm.places.open()] == [True, False]
    await said(llm, device="b")
    after = runtime.stats().memory
    assert after.weights == 2 * before.weights
    assert after.other == before.other
    assert [place.loaded for place in llm.places.open()] == [True, True]


async def test_without_memory_for_a_second_copy_it_stays_where_it_is(
    anyio_backend: object, tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_runtime(devices=two(), memory="16 MiB") as runtime:
        async with await runtime.load_model(tiny_path, devices=["a", "b"], prefix_reuse=False) as llm:
            alone, weights = await said(llm), runtime.stats().memory.weights
            llm.places.chooser = sent = Sent(lambda text: text > len(PROMPT) + 4)
            with caplog.at_level(logging.DEBUG, logger="coro_rt"):
                async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True, buffer=1) as stream:
                    got = [await anext(stream)]
                    assert runtime.memory.free is not None
                    with runtime.memory.reserve(runtime.memory.free - weights + 1, "the application"):
                        got += [token async for token in stream]
                    assert runtime.memory.free > weights
            assert got == alone
            assert set(sent.at) == {"a"}
            assert [r.message for r in caplog.records if "stays on 'a'" in r.message]
            llm.places.chooser = Sent(lambda text: False, first="b")
            with runtime.memory.reserve(runtime.memory.free - 2**21, "the application"):
                assert runtime.stats().device_busy_s["b"] == 0
                big = runtime.memory.reserve(2**21 - weights, "the application")
                stream = llm.generate([1], max_tokens=2)
                big.release()
                async with stream:
                    assert len([token async for token in stream]) == 2
            assert runtime.stats().device_busy_s["b"] == 0, "there was no room when it was asked for"
            assert nothing_is_kept(runtime)
        assert runtime.memory.used == 0


async def test_moves_in_company_change_nothing(llm: LLM) -> None:
    prompts = [list(range(n, n + 30 * n)) for n in range(1, 6)]
    alone = [await said(llm, prompt, **options) for prompt in prompts for options in (GREEDY, DRAWN)]
    llm.places.chooser = Sent(lambda text: text % 3 == 0)
    together: dict[int, list[Token]] = {}

    async def ask(nth: int) -> None:
        with qos(QoS(nth % len(QoS))):
            together[nth] = await said(llm, prompts[nth // 2], **(GREEDY, DRAWN)[nth % 2])

    async with anyio.create_task_group() as group:
        for nth in range(len(alone)):
            group.start_soon(ask, nth)
    assert [together[nth] for nth in range(len(alone))] == alone


async def test_bursts_end_where_it_goes_elsewhere(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = await said(llm, max_tokens=60)
    monkeypatch.setattr("coro_rt.llm.turnaround.USUAL_S", 0.1)
    llm.places.chooser = sent = Sent(lambda text: len(sent.at) % 2 == 0)
    assert await said(llm, max_tokens=60) == alone
    assert 1 < len(sent.at) < 59
    assert set(sent.at) == {"a", "b"}


async def test_pages_of_the_text_are_shared_where_it_goes(llm: LLM) -> None:
    alone = await said(llm)
    assert await said(llm, device="b") == alone
    for device in "ab":
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True, device=device) as stream:
            assert [token async for token in stream] == alone
        assert stream.usage.reused_tokens == 128
    llm.places.chooser = Sent(lambda text: text == len(PROMPT) + 3)
    async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
        assert [token async for token in stream] == alone
    assert stream.usage.reused_tokens == 128  # of the prompt, where it began


# Ending early.


@pytest.mark.parametrize("nth", range(6))
async def test_cancelled_halfway_through_a_move_nothing_is_left(
    runtime: Runtime, llm: LLM, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """At the nth of the places in its way: its room, its first and second chunk, and what comes after."""
    alone = await said(llm)
    await said(llm, device="b")
    room, seen = TextSequence.make_room, 0

    async def cancelled_on_the_way(self: TextSequence, *args: Any, **options: Any) -> None:
        nonlocal seen
        if current_job().worker.name == "b":
            if seen == nth:
                current_job().cancel()
            seen += 1
        await room(self, *args, **options)

    monkeypatch.setattr(TextSequence, "make_room", cancelled_on_the_way)
    llm.places.chooser = Sent(lambda text: text == len(PROMPT) + 2)
    got: list[Token] = []

    async def read() -> None:
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            async for token in stream:
                got.append(token)

    with pytest.raises(JobCancelled):
        await read()
    assert got == alone[: len(got)]
    assert 2 <= len(got) < COUNT
    assert nothing_is_kept(runtime)


async def test_given_up_at_any_time_nothing_is_left(runtime: Runtime, llm: LLM) -> None:
    alone = await said(llm)
    llm.places.chooser = Sent(lambda text: True)
    for after in range(COUNT):
        got = []
        async with llm.generate(PROMPT, max_tokens=COUNT, ignore_eos=True) as stream:
            async for token in stream:
                got.append(token)
                if len(got) > after:
                    break
        assert got == alone[: after + 1]
        assert nothing_is_kept(runtime)


async def test_closing_the_model_ends_those_that_move(runtime: Runtime, tiny_path: Path) -> None:
    llm = await runtime.load_model(tiny_path, devices=["a", "b"])
    llm.places.chooser = Sent(lambda text: True)
    streams = [llm.generate([n, *PROMPT], max_tokens=90, ignore_eos=True, buffer=2) for n in range(4)]
    for stream in streams:
        await anext(stream)
    await llm.aclose()
    for stream in streams:
        await stream.aclose()
        assert stream.job is not None
        assert stream.job.state is State.DONE
    assert runtime.stats().memory.held == 0


# Conversations.


async def talked(llm: LLM, devices: list[str | None]) -> tuple[list[list[int]], list[int]]:
    answers, reused = [], []
    with llm.conversation(system="hello") as talk:
        for question, device in zip(("hello", "hell", "he", "hello he"), devices, strict=True):
            async with talk.ask(question, max_tokens=9, ignore_eos=True, device=device) as stream:
                answers.append([token.id async for token in stream])
            reused.append(stream.usage.reused_tokens)
    return answers, reused


async def test_a_conversation_goes_on_wherever_its_turns_are(runtime: Runtime, llm: LLM) -> None:
    answers, reused = await talked(llm, [None] * 4)
    assert [n > 0 for n in reused] == [False, True, True, True]
    llm.places.model("a").prefixes.clear()  # type: ignore[union-attr]
    again, reused = await talked(llm, ["a", "b", "b", "a"])
    assert again == answers
    assert [n > 0 for n in reused][:3] == [False, False, True]  # the pages of a text were kept on "a"


async def test_a_conversation_that_moved_reads_only_what_is_new_there(runtime: Runtime, llm: LLM) -> None:
    alone, _ = await talked(llm, [None] * 4)
    begun = 0

    def once(text: int) -> bool:
        nonlocal begun
        begun += 1
        return begun == 4

    llm.places.chooser = Sent(once)
    answers = []
    with llm.conversation(system="hello") as talk:
        for question in ("hello", "hell", "he", "hello he"):
            async with talk.ask(question, max_tokens=9, ignore_eos=True) as stream:
                answers.append([token.id async for token in stream])
            assert talk._sequence is not None
            assert talk._sequence.model is llm.places.model("b")
            llm.places.chooser = Sent(lambda text: False, first="b")
        assert stream.usage.reused_tokens > 0
        assert len(llm.places.model("a").conversations) == 0
        assert len(llm.places.model("b").conversations) == 1
    assert answers == alone


async def test_a_conversation_closed_while_it_moves_gives_its_memory_back_at_the_end(llm: LLM) -> None:
    llm.places.chooser = Sent(lambda text: True)
    for after in range(1, 5):
        talk = llm.conversation()
        async with talk.ask("hello", max_tokens=20, ignore_eos=True, buffer=1) as stream:
            for _ in range(after):
                await anext(stream)
            talk.close()
            assert len([token async for token in stream]) == 20 - after


# Which devices.


async def test_devices_limits_where_it_may_run_and_device_pins_it(runtime: Runtime, tiny_path: Path) -> None:
    async with await runtime.load_model(tiny_path) as llm:
        assert llm.places.names == ["a"]  # "b" is the same processor again
        assert await said(llm, device="b") == await said(llm)  # and works with the same weights
        assert runtime.stats().memory.weights == llm._open().weight_bytes
    async with await runtime.load_model(tiny_path, device="b") as llm:
        assert llm.places.names == ["b"]
    async with await runtime.load_model(tiny_path, devices=["b", "a"]) as llm:
        assert llm.places.names == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": "a", "devices": ["b"]}, ValueError, "give one of them"),
        ({"devices": []}, ValueError, "at least one name"),
        ({"devices": "a"}, ValueError, "a list"),
        ({"devices": ["a", "gpu"]}, DeviceError, "no model can run on 'gpu', and open are: a, b"),
        ({"device": "c"}, DeviceError, "no model can run on 'c', and open are: a, b"),
    ],
    ids=str,
)
async def test_devices_that_cannot_be_are_refused(
    runtime: Runtime, tiny_path: Path, options: Options, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await runtime.load_model(tiny_path, **options)


async def test_a_place_that_there_can_never_be_room_for_is_refused_at_the_call(
    anyio_backend: object, tiny_path: Path
) -> None:
    async with open_runtime(devices=two()) as runtime, await runtime.load_model(tiny_path) as llm:
        loaded = runtime.memory.used
    async with (
        open_runtime(devices=two(), memory=loaded + 600_000) as runtime,
        await runtime.load_model(tiny_path, devices=["a", "b"]) as llm,
    ):
        with runtime.memory.reserve(550_000, "the application"), pytest.raises(MemoryBudgetExceeded):
            llm.generate(PROMPT, device="b")
